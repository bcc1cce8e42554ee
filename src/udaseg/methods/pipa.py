"""PiPa: two contrasts of embeddings beside self-training, of pixels of one class and of patches of one place.

Chen, Zheng, Yang & Chua, "PiPa: Pixel- and Patch-wise Self-supervised Learning for Domain Adaptive Semantic
Segmentation", ACM Multimedia 2023, arXiv 2211.07609.

Loss: DAFormer's + alpha L_pixel + beta L_patch, the weights of `pixel` and `patch`. L_pixel contrasts embeddings of
labelled source pixels: one class attracts, others repel. L_patch contrasts two overlapping crops of one image: what
they show of one place agrees and differs from everything else. Both embeddings are projections of the map that the
classifier sees; they serve training only. What is added stands on any host that is a `host.SelfTraining`.

The released code does not train what the paper describes: without a loss on its classifiers, which tell hard pixels and
confident patches, and with the teacher's features for the patches, whose loss so never reaches the student. Both forms
are here (`pixel` and `patch`: paper or released), and the paper's is the default.
Differences from the paper
- Its text leaves open: pixels are drawn, so many of a class; so are the patches' anchors, so many of an image; the
  patch loss is summed over both directions, as released, and its gradient goes through both crops and the negatives.
- Patches are of target images, as released; descriptions of the paper have mixed ones (`patch_image`).
What to know of the paper's forms
- Hard positives and hard negatives together draw all embeddings of classes that the features do not separate yet into
  one point, where the loss is the logarithm of 1 + the number of negatives and has hardly a gradient; a larger
  `hard_share` does not.
- The student sees the patches with its own BatchNorm, whose running statistics so learn of more target images than
  the host's, or with `patch: released`: a part of any difference is that of AdaBN.
Differences from the released code
- The embedding is of the map before the classifier; the release's for pixels is of the encoder's four stages.
- Images for the patch contrast are those of the batch; the release's are always the first ones of its list.
- The two crops are augmented as mixed images are; the release has a stronger jitter, and greyscale.
- Untrained classifiers stay as they were drawn; the release lets weight decay shrink them.
- Nothing to contrast: a loss of 0.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.errors import UserError
from udaseg.methods.base import Context, Knobs, MethodSpec, OptimizerFactory, Step, Terms
from udaseg.methods.daformer import SPEC as HOST
from udaseg.methods.daformer import Config as HostConfig
from udaseg.methods.daformer import DAFormer
from udaseg.methods.host import Mixed, SelfTraining, Share, build_teacher, mixed_images
from udaseg.nets.base import Outputs
from udaseg.nets.projection import PatchProjection, PixelProjection, SideClassifier
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import strong_augmentation
from udaseg.ops.maps import as_rows, take_pixels
from udaseg.ops.patch_contrast import Bank, bank_contrast, empty_bank, paired_contrast, pushed
from udaseg.ops.patches import CropPair, corresponding_cells, draw_pair, resized_to, to_cells, upright
from udaseg.ops.pixel_contrast import draw_pixels, hard_contrast, pixel_contrast, sample_views
from udaseg.seeding import seed_for

BANK_STEPS, BANK_CELLS = 3, 1600  # as released: steps that the bank keeps, cells of each crop's maps that it takes

Fidelity = Literal["paper", "released"]
Count = Annotated[int, Field(ge=1)]
Pair = Annotated[tuple[Count, Count], Field(strict=False)]  # not strict: parameters come as lists
Factors = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], Field(strict=False)]
Shares = Annotated[tuple[Share, Share], Field(strict=False)]


class ContrastKnobs(Knobs):
    """Sizes are the release's, for images of 1024 x 2048; they want adjusting to those of a study."""

    # paper: each pixel against the hardest `hard_share` of its positives and negatives; released: against all, half of
    # the pixels wrong by a classifier that nothing trains, and 255 a class.
    pixel: Fidelity = "paper"
    # paper: the student's features of both crops; released: the teacher's, so that only the projection learns.
    patch: Fidelity = "paper"
    temperature: Annotated[float, Field(gt=0)] = 0.1  # of both contrasts (released 0.1)
    hard_share: Annotated[float, Field(gt=0, le=1)] = 0.1  # of positives and negatives that count (paper 0.1)
    # Pixels of a class that are drawn: paper from the batch (ours), released from each image that has more (100).
    pixels_per_class: Count = 100
    pixel_width: Count = 1024  # channels within the pixels' projection (released 1024)
    pixel_outputs: Count = 256  # of the pixels' embedding (released 256)
    patch_width: Count = 256  # channels within the patches' projection (released 256)
    patch_outputs: Count = 128  # of the patches' embedding (released 128)
    patch_image: Literal["target", "mixed"] = (
        "target"  # released: whole target images; as others describe the paper: mixed
    )
    patch_scale: Factors = (0.8, 2.0)  # bounds of the factor on the image's size (released 0.8 and 2)
    patch_size: Pair = (720, 720)  # height and width of the crops, multiples of patch_stride (released 720)
    patch_stride: Count = 8  # pixels of a cell's side, and of the shifts between the crops (released 8)
    patch_overlap: Shares = (0.1, 1.0)  # bounds of the crops' intersection over union (released 0.1 and 1)
    patch_start: Annotated[int, Field(ge=0)] = 10000  # iteration from which on the term is there (released 10000)
    patch_anchors: Count = 256  # locations of an image that are contrasted (paper form only; ours)
    # Negatives of the paper form: all other locations, or those that the teacher gives another class.
    patch_negatives: Literal["all", "other_class"] = "all"
    patch_confidence: Share = 0.9  # which a positive must exceed (released form only: 0.9)

    @model_validator(mode="after")
    def _crops_fit_their_cells(self) -> Self:
        if any(length % self.patch_stride for length in self.patch_size):
            raise ValueError(
                f"patch_size: multiples of patch_stride = {self.patch_stride} expected, found {list(self.patch_size)}"
            )
        for name in ("patch_scale", "patch_overlap"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: a lower and an upper bound expected, found {[low, high]}")
        return self


class PixelPatch(nn.Module):
    """The plug-in: projections and what else the two terms keep. It has only the parts of terms that are active.

    Args:
        context: whose knobs are a host's and `ContrastKnobs`.
        channels: of the network's embedding.
    """

    bank: Tensor
    bank_labels: Tensor

    def __init__(self, context: Context, channels: int) -> None:
        super().__init__()
        self.knobs: Any = context.knobs
        self.seed = context.seed
        knobs, classes = self.knobs, len(context.classes)
        if "pixel" in context.weights:
            sizes = (channels, knobs.pixel_width)
            self.pixels = context.build(lambda: PixelProjection(*sizes, knobs.pixel_outputs), "contrast.pixels")
            if knobs.pixel == "released":
                self.side = context.build(lambda: SideClassifier(*sizes, classes), "contrast.side")
        if "patch" in context.weights:
            sizes = (channels, knobs.patch_width)
            self.patches = context.build(lambda: PatchProjection(*sizes, knobs.patch_outputs), "contrast.patches")
            if knobs.patch == "released":
                self.classifier = context.build(lambda: nn.Conv2d(channels, classes, 1), "contrast.classifier")
                bank = empty_bank(BANK_STEPS, 2 * BANK_CELLS, knobs.patch_outputs)
                self.register_buffer("bank", bank.rows)
                self.register_buffer("bank_labels", bank.labels)

    def pixel(self, source: Outputs, labelled: Labelled, step: Step) -> Tensor:
        """L_pixel of the network's outputs for labelled images."""
        maps, knobs = source.features["embedding"], self.knobs
        generator = self._generator("contrast.pixel", step)
        # Whole numbers up to 255 stay exact in float32; a cell has the label of its first pixel, as released.
        labels = F.interpolate(labelled.label[:, None].float(), maps.shape[2:], mode="nearest")[:, 0].long()
        embeddings = self.pixels(maps)
        if knobs.pixel == "paper":
            drawn = draw_pixels(labels, knobs.pixels_per_class, generator)
            chosen = labels.flatten()[drawn]
            return hard_contrast(take_pixels(embeddings, drawn), chosen, knobs.temperature, knobs.hard_share)
        # Its dropout draws from the global generator, of which the host's augmentation is to get the same numbers.
        with torch.no_grad(), torch.random.fork_rng([maps.device] if maps.is_cuda else []):
            predicted = self.side(maps).argmax(dim=1)
        views = sample_views(labels, predicted, generator, knobs.pixels_per_class, ignore=None)
        return pixel_contrast(take_pixels(embeddings, views.indices), views.classes, knobs.temperature)

    def patch(self, look: Callable[[Tensor], Outputs], judge: EmaTeacher | None, images: Tensor, step: Step) -> Tensor:
        """L_patch of images (B, 3, H, W).

        Args:
            look: the network whose features of the crops are compared.
            judge: gives the crops' pseudo-classes, where the paper form's negatives are to be of another one.
            images: whole target images, or mixed ones, which have been augmented before.
            step: the training step.
        """
        knobs = self.knobs
        generator = self._generator("contrast.patch", step)
        size, bounds = (images.shape[-2], images.shape[-1]), (knobs.patch_scale, knobs.patch_overlap)
        pairs = [draw_pair(size, knobs.patch_size, *bounds, knobs.patch_stride, generator) for _ in images]
        cut = zip(*(pair.apply(image) for pair, image in zip(pairs, images, strict=True)), strict=True)
        crops = [strong_augmentation(torch.stack(crop), knobs.jitter, knobs.blur, generator) for crop in cut]
        both = torch.cat(crops)
        maps = self._cells(look(both).features["embedding"], pairs)
        rows = as_rows(self.patches(maps))
        boxes, size = [pair.boxes for pair in pairs], (maps.shape[-2], maps.shape[-1])
        if knobs.patch == "paper":
            places = corresponding_cells(boxes, size, knobs.patch_stride, knobs.patch_anchors, generator)
            first, second = (place.to(rows.device) for place in places)
            classes = None if judge is None else as_rows(self._cells(judge(both).logits, pairs)).argmax(dim=1)
            return paired_contrast(rows, first, second, knobs.temperature, knobs.hard_share, classes)
        first, second = (place.to(rows.device) for place in corresponding_cells(boxes, size, knobs.patch_stride))
        with torch.no_grad():
            confidence, labels = as_rows(self.classifier(maps)).float().softmax(dim=1).max(dim=1)
        bank = self._remembered(rows, labels, generator)
        found = bank_contrast(rows, first, second, labels, confidence, bank, knobs.temperature, knobs.patch_confidence)
        step.log("patch_anchors", found.counted.sum())
        return found.loss

    def _generator(self, purpose: str, step: Step) -> torch.Generator:
        """Not the step's: the host is to draw the same numbers with and without the plug-in, so that runs are paired.

        With several batches a step, they share what is drawn: places and sizes, not images.
        """
        return torch.Generator().manual_seed(seed_for(self.seed, purpose, step.index))

    def require_room(self, size: tuple[int, int]) -> None:
        """UserError when the crops do not fit into images of `size` (height, width)."""
        knobs, smallest = self.knobs, resized_to(size, self.knobs.patch_scale[0])
        if knobs.patch_size[0] > smallest[0] or knobs.patch_size[1] > smallest[1]:
            raise UserError(
                f"knobs.patch_size: at most {list(smallest)} expected, the size of {knobs.patch_image} images "
                f"{list(size)} at the lower bound of patch_scale, {knobs.patch_scale[0]}; found "
                f"{list(knobs.patch_size)}"
            )

    def _cells(self, maps: Tensor, pairs: list[CropPair]) -> Tensor:
        """Maps (2B, D, h, w) of all first and then all second crops, upright and at the stride of the comparison."""
        knobs = self.knobs
        if any(have * knobs.patch_stride < side for have, side in zip(maps.shape[-2:], knobs.patch_size, strict=True)):
            raise UserError(
                f"knobs.patch_stride: at least the stride of the network's features expected, whose map of a crop of "
                f"{list(knobs.patch_size)} is {list(maps.shape[-2:])}; found {knobs.patch_stride}"
            )
        flips = [pair.flips[crop] for crop in (0, 1) for pair in pairs]
        return to_cells(upright(maps, flips), knobs.patch_size, knobs.patch_stride)

    def _remembered(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> Bank:
        """The bank with random rows of either crop of this step."""
        half = len(rows) // 2
        kept = torch.cat([crop * half + torch.randperm(half, generator=generator)[:BANK_CELLS] for crop in (0, 1)])
        kept = kept.to(rows.device)
        bank = pushed(Bank(self.bank, self.bank_labels), rows[kept].detach(), labels[kept])
        self.bank, self.bank_labels = bank
        return bank


class WithContrast(SelfTraining):
    """Puts the plug-in on the host that is named after it among the bases. Without its terms it is that host."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.contrast: PixelPatch | None = None
        if "pixel" in context.weights or "patch" in context.weights:
            self.contrast = PixelPatch(context, self.net.feature_channels["embedding"])
        knobs: Any = context.knobs
        self.needs_teacher = "patch" in context.weights and (
            knobs.patch == "released" or knobs.patch_negatives == "other_class"
        )
        if self.needs_teacher and self.teacher is None:
            self.teacher = build_teacher(self.net, self.knobs)

    def source_terms(self, source: Outputs, labelled: Labelled, step: Step) -> Terms:
        terms = super().source_terms(source, labelled, step)
        if self.contrast is None or not step.active("pixel"):
            return terms
        return terms | {"pixel": self.contrast.pixel(source, labelled, step)}

    def further_terms(self, batch: Batch, mixed: Mixed | None, step: Step) -> Generator[Terms, None, None]:
        yield from super().further_terms(batch, mixed, step)
        knobs: Any = self.knobs
        if self.contrast is None or not step.active("patch"):
            return
        shape = (batch.target.full if knobs.patch_image == "target" else batch.target.image).shape
        self.contrast.require_room((shape[-2], shape[-1]))  # at once, not when the term starts
        if step.index < knobs.patch_start:
            return
        if knobs.patch_image == "target":
            images = batch.target.full
        else:
            images = mixed_images(batch, self.knobs, step)[0] if mixed is None else mixed.image
        teacher = self.teacher if self.needs_teacher else None
        look = teacher if teacher is not None and knobs.patch == "released" else self.net
        yield {"patch": self.contrast.patch(look, teacher, images, step)}

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        return found if self.contrast is None else found | {"contrast": optim.module(self.contrast)}


def with_contrast(host: MethodSpec, name: str, config: type[Knobs]) -> MethodSpec:
    """The host's SPEC with the two terms."""

    def views(knobs: Any) -> dict[str, frozenset[str]]:
        given = host.views(knobs) if callable(host.views) else host.views
        patches = {"target", "target.full"} if knobs.patch_image == "target" else {"source", "target"}
        return {**given, "pixel": frozenset({"source"}), "patch": frozenset(patches)}

    def idle(knobs: Any, weights: Mapping[str, float]) -> dict[str, str]:
        found = dict(host.idle(knobs, weights))
        if knobs.pixel == "released" and "pixel" in weights:
            found["contrast.side"] = "the release trains no classifier for telling hard pixels"
        if knobs.patch == "released" and "patch" in weights:
            found["contrast.classifier"] = "the release trains no classifier for its patches' pseudo-labels"
        return found

    weights = {**host.weights, "pixel": 0.1, "patch": 0.1}  # alpha and beta as released, for DAFormer
    return replace(host, name=name, Config=config, weights=weights, views=views, idle=idle)


class Config(HostConfig, ContrastKnobs):
    pass


class PiPa(WithContrast, DAFormer):
    SPEC = with_contrast(HOST, "pipa", Config)
    knobs: Config
