"""Trainable prototypes, the queue of features they are trained with, and the class prior (CPSL, CVPR 2022).

Li et al., "Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation", arXiv 2203.09744.
Everything that changes during training is a parameter or a persistent buffer.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.ops.class_balance import class_shares, draw_balanced, draw_uniform, moving_prior, sample_counts
from udaseg.ops.maps import take_pixels
from udaseg.ops.prototype_assignment import (
    assigned_prior,
    balanced_assignment,
    cosine_logits,
    row_scores,
    seen_classes,
    self_label_loss,
)
from udaseg.types import Fidelity


class FeatureQueue(nn.Module):
    """The last `size` rows of `width` numbers, in a ring that is written in place.

    The release shifts the whole queue of 64 MiB for each image.
    """

    ring: Tensor
    newest: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(f"a size and a width of at least 1 expected, found {size} and {width}")
        self.register_buffer("ring", torch.zeros(size, width))
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))  # index of the newest row in the ring
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))  # rows so far, at most `size`

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Add rows (n, width), the first one as the newest; of more than `size` only the first are kept."""
        size = len(self.ring)
        rows = rows[:size]
        self.newest.copy_((self.newest - len(rows)) % size)
        self.ring[(self.newest + torch.arange(len(rows), device=rows.device)) % size] = rows.to(self.ring)
        self.filled.add_(len(rows)).clamp_(max=size)

    @property
    def full(self) -> bool:
        """Whether all rows are filled; before that the queue is not used (released: until its last row is not zero)."""
        return int(self.filled) == len(self.ring)

    def rows(self) -> Tensor:
        """(filled, width), the newest first. Once the queue is full, `ring` has the same rows without a copy."""
        return self.ring.roll(-int(self.newest), dims=0)[: int(self.filled)]


class Drawn(NamedTuple):
    """What a batch leaves for `PrototypeAssignment.update`, without a graph."""

    rows: Tensor  # (n, D) drawn features of length 1
    classes: Tensor  # (n,) int64, their labels
    shares: Tensor  # (B, K) of the classes in each image
    logits: Tensor | None  # (n, K) of length 1, with the logit term


class PrototypeAssignment(nn.Module):
    """Trainable prototypes, the teacher's that follow them, the queue they are trained with, and the class prior.

        labelling = PrototypeAssignment(prototypes, prior, queue_size=65536, ...)  # optim.module(labelling) trains it
        labelling.logits(features)  # (B, K, h, w), P_SL is the softmax over it
        loss, drawn = labelling(teacher_features, labels, generator)  # a term
        ...  # the step
        labelling.update(drawn)  # for each of the step's batches
        labelling.follow(keep)

    A class whose prototype is zeros was not seen. It gets no gradient, no pixel is assigned to it, and it has no part
    in P_SL until a batch draws pixels with its label; their mean then becomes its prototype.

    Args:
        prototypes: (K, D), of any length; they are normalised to length 1. Zeros for a class that was not seen.
        prior: (K,), at least 0: the classes' shares in the target domain; each counts as at least 1e-6.
        queue_size: rows of the queue (released 65536).
        samples: most pixels drawn from an image (released 256).
        temperature: of P_SL and of the loss (released 0.08).
        epsilon: see `ops.prototype_assignment.sinkhorn` (released 0.05).
        rounds: its iterations (released 3).
        sampler: which pixels are drawn. paper: of each class by its share of the image; released: any labelled ones, at
            the same places in all images of a batch.
        prior_rule: paper: the prior moves with the labels; released: it stays as it was given.
        prior_keep: share of the prior that is kept when an image's labels update it (the paper's alpha, value unknown).
        queue_scores: paper: the queue's rows are scored by prototypes of length 1, like the others; released: by the
            prototypes as they are, which is a slip.
        logit_term: the teacher's logits are assigned, too, with a queue of their own, and their labels teach the same
            scores (released, not in the paper). The release uses the scores of the batch's last image for all images, a
            slip that is not followed.

    Raises:
        ValueError: shapes do not fit, or a setting has no such form.
    """

    teacher: Tensor
    prior: Tensor

    def __init__(
        self,
        prototypes: Tensor,
        prior: Tensor,
        *,
        queue_size: int,
        samples: int,
        temperature: float,
        epsilon: float,
        rounds: int,
        sampler: Fidelity,
        prior_rule: Fidelity,
        prior_keep: float,
        queue_scores: Fidelity,
        logit_term: bool = False,
    ) -> None:
        super().__init__()
        if prototypes.dim() != 2 or prior.shape != prototypes.shape[:1]:
            raise ValueError(
                f"prototypes (K, D) and a prior (K,) expected, found {tuple(prototypes.shape)} and {tuple(prior.shape)}"
            )
        for name, form in {"sampler": sampler, "prior_rule": prior_rule, "queue_scores": queue_scores}.items():
            if form not in ("paper", "released"):
                raise ValueError(f"{name}: 'paper' or 'released' expected, found {form!r}")
        classes, width = prototypes.shape
        self.samples, self.temperature, self.epsilon, self.rounds = samples, temperature, epsilon, rounds
        self.prior_rule, self.prior_keep = prior_rule, prior_keep
        self.sampler, self.queue_scores = sampler, queue_scores
        self.prototypes = nn.Parameter(F.normalize(prototypes.detach().float(), dim=1))
        self.register_buffer("teacher", self.prototypes.detach().clone())
        self.register_buffer("prior", prior.detach().float().clone())
        self.queue = FeatureQueue(queue_size, width)
        self.logit_queue = FeatureQueue(queue_size, classes) if logit_term else None

    def logits(self, features: Tensor) -> Tensor:
        """Cosines of features (B, D, h, w) and the teacher's prototypes over the temperature: (B, K, h, w), finite.

        Gradients reach the features only. A class that was not seen gets -1e4, unless no class was seen.
        """
        return cosine_logits(features, self.teacher, self.temperature, self.seen())

    def seen(self) -> Tensor:
        """(K,) bool: classes that have a prototype."""
        return seen_classes(self.teacher)

    def forward(
        self, features: Tensor, labels: Tensor, generator: torch.Generator, logits: Tensor | None = None
    ) -> tuple[Tensor, Drawn]:
        """L_SL, the mean over images, and what `update` needs. It trains nothing but the prototypes.

        It is 0, connected to the graph, if no pixel is drawn or no class was seen. An image's rows enter the queue
        after the step; in the release, the next image of the same batch already sees them.

        Args:
            features: (B, D, h, w), the teacher's, of any length; they get no gradient.
            labels: (B, h, w) int64, 255 = ignore.
            generator: on the CPU.
            logits: (B, K, h, w), the teacher's; needed with the logit term.

        Raises:
            ValueError: shapes do not fit, or logits are missing.
        """
        if labels.shape != (len(features), *features.shape[2:]) or (self.logit_queue is not None and logits is None):
            raise ValueError(
                f"features (B, D, h, w), labels (B, h, w) and (with the logit term) logits expected, found "
                f"{tuple(features.shape)}, {tuple(labels.shape)} and {None if logits is None else tuple(logits.shape)}"
            )
        classes = len(self.prior)
        if self.sampler == "paper":
            places = draw_balanced(labels, sample_counts(labels, classes, self.samples), generator)
        else:
            places = draw_uniform(labels, self.samples, generator)
        rows = _unit_rows(features, places)
        drawn_logits = None if self.logit_queue is None or logits is None else _unit_rows(logits, places)
        sizes = (places // labels[0].numel()).bincount(minlength=len(labels)).tolist()
        loss = self._loss(rows, sizes, self._queued_scores())
        if self.logit_queue is not None and drawn_logits is not None:
            queued = self.logit_queue.ring if self.logit_queue.full else None
            loss = loss + self._loss(rows, sizes, queued, drawn_logits)
        return loss, Drawn(rows, labels.flatten()[places], class_shares(labels, classes), drawn_logits)

    def _queued_scores(self) -> Tensor | None:
        """(queue_size, K); None until the queue is full."""
        if not self.queue.full:
            return None
        return row_scores(self.queue.ring, self.prototypes.detach(), self.queue_scores == "paper")

    def _loss(self, rows: Tensor, sizes: list[int], queued: Tensor | None, clustered: Tensor | None = None) -> Tensor:
        """Mean over images; `clustered` (n, K) are the scores to assign instead of the rows' own."""
        seen = seen_classes(self.prototypes)
        prior = assigned_prior(self.prior, seen)
        scores = row_scores(rows, self.prototypes)
        wanted = scores if clustered is None else clustered
        losses = [
            self_label_loss(
                own, balanced_assignment(other, prior, self.epsilon, self.rounds, queued), self.temperature, seen
            )
            for own, other in zip(scores.split(sizes), wanted.split(sizes), strict=True)
        ]
        return torch.stack(losses).mean() * seen.any()

    @torch.no_grad()
    def update(self, drawn: Drawn) -> None:
        """After the step: rows enter the queue, the prior moves, and newly seen classes get prototypes."""
        self.queue.push(drawn.rows)
        if self.logit_queue is not None and drawn.logits is not None:
            self.logit_queue.push(drawn.logits)
        if self.prior_rule == "paper":
            for shares in drawn.shares:
                self.prior.copy_(moving_prior(self.prior, shares, self.prior_keep))
        unseen = ~seen_classes(self.prototypes)[:, None]
        of_class = drawn.classes == torch.arange(len(self.prior), device=drawn.classes.device)[:, None]  # (K, n)
        means = F.normalize(of_class.to(drawn.rows) @ drawn.rows, dim=1)  # zeros for classes that were not drawn
        self.prototypes.copy_(torch.where(unseen, means, self.prototypes))
        self.teacher.copy_(torch.where(unseen, means, self.teacher))

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """After the step: the teacher's prototypes follow, keeping the share `keep` in [0, 1] of themselves."""
        self.teacher.lerp_(self.prototypes, 1 - keep)


@torch.no_grad()
def _unit_rows(maps: Tensor, places: Tensor) -> Tensor:
    """Vectors (n, D) of maps (B, D, h, w) at places (n,) into B*h*w, float32 of length 1."""
    return F.normalize(take_pixels(maps, places).float(), dim=1)
