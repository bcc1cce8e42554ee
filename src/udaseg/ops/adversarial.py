"""Adversarial alignment of two domains: gradient reversal (DANN) and output-space discrimination (AdaptSegNet).

A domain classifier's logits are the log-odds that a location belongs to the target. They have one channel, or two
(source, target) as in DANN's reference code. Of two only the difference matters: the negative log-likelihood of a
softmax over two logits is the binary cross-entropy of their difference.

Losses are means over the locations of each domain separately, so that crops of different sizes do not shift the balance
between the domains.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.ops.maps import resize

Domain = Literal[0, 1]
SOURCE: Literal[0] = 0
TARGET: Literal[1] = 1
Kind = Literal["vanilla", "least_squares"]


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor | float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].neg() * ctx.strength, None


def reverse_gradient(x: Tensor, strength: Tensor | float) -> Tensor:
    """`x` unchanged; its gradient is multiplied by -strength (Ganin & Lempitsky, ICML 2015).

    Args:
        x: any shape.
        strength: a number, or a tensor without dimensions (which a compiled graph does not treat as a constant).
    """
    if isinstance(strength, Tensor) and strength.dim():
        raise ValueError(f"strength must be a number or a tensor without dimensions, found {tuple(strength.shape)}")
    reversed_x: Tensor = _ReverseGradient.apply(x, strength)
    return reversed_x


def reversal_strength(progress: float, gamma: float) -> float:
    """2 / (1 + exp(-gamma * progress)) - 1, from 0 towards 1 (Ganin & Lempitsky, ICML 2015).

    Args:
        progress: finished share of the training, in [0, 1].
        gamma: steepness (paper 10).
    """
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


def log_odds(logits: Tensor) -> Tensor:
    """Domain logits (B, 1 or 2, h, w) as the log-odds of the target, (B, 1, h, w)."""
    if logits.dim() != 4 or logits.shape[1] not in (1, 2):
        raise ValueError(f"domain logits (B, 1 or 2, h, w) expected, found {tuple(logits.shape)}")
    return logits[:, TARGET:] - logits[:, :TARGET] if logits.shape[1] == 2 else logits


def domain_loss(logits: Tensor, domain: Domain, kind: Kind = "vanilla") -> Tensor:
    """Mean loss of calling all locations `domain`.

    Args:
        logits: (B, 1 or 2, h, w), see `log_odds`.
        domain: 0 source, 1 target.
        kind: "vanilla", binary cross-entropy with logits; "least_squares", squared distance of raw logits to 0 or 1.
    """
    if kind not in ("vanilla", "least_squares"):
        raise ValueError(f"kind: 'vanilla' or 'least_squares' expected, found {kind!r}")
    odds = log_odds(logits)
    wanted = torch.full_like(odds, float(domain))
    return F.binary_cross_entropy_with_logits(odds, wanted) if kind == "vanilla" else F.mse_loss(odds, wanted)


@torch.no_grad()
def domain_accuracy(logits_source: Tensor, logits_target: Tensor, threshold: float = 0.0) -> Tensor:
    """Share of locations whose domain is right, averaged over both domains; 0.5: aligned, or a dead classifier.

    Args:
        logits_source, logits_target: (B, 1 or 2, h, w), of any two sizes.
        threshold: log-odds above which a location counts as target: 0 for vanilla, 0.5 for least squares.
    """
    right_source = (log_odds(logits_source) <= threshold).float().mean()
    right_target = (log_odds(logits_target) > threshold).float().mean()
    return (right_source + right_target) / 2


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, gradients flow through `module`, but its parameters get none."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def output_space(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """The input of AdaptSegNet's discriminators: class probabilities (B, C, *size) of resized logits (B, C, h, w)."""
    return resize(logits, size).softmax(dim=1)


def adversarial_loss(discriminator: nn.Module, logits: Tensor, size: tuple[int, ...], kind: Kind = "vanilla") -> Tensor:
    """Loss of the segmenter: its target predictions shall be mistaken for source ones (AdaptSegNet, CVPR 2018).

    Args:
        discriminator: probabilities (B, C, H, W) -> domain logits; gets no gradient from this.
        logits: (B, C, h, w), of target images.
        size: (H, W) of the target images.
        kind: see `domain_loss`.
    """
    with frozen(discriminator):
        return domain_loss(discriminator(output_space(logits, size)), SOURCE, kind)


class DiscriminatorLosses(NamedTuple):
    source: Tensor  # half the domain loss on source predictions
    target: Tensor  # half the domain loss on target predictions
    accuracy: Tensor  # diagnostic, see `domain_accuracy`


def discriminator_losses(
    discriminator: nn.Module,
    source: tuple[Tensor, tuple[int, ...]],
    target: tuple[Tensor, tuple[int, ...]],
    kind: Kind = "vanilla",
) -> DiscriminatorLosses:
    """Losses of the discriminator itself, halved as in AdaptSegNet's release; the predictions get no gradient.

    Args:
        discriminator: probabilities (B, C, H, W) -> domain logits.
        source, target: logits (B, C, h, w) and the size (H, W) of their images.
        kind: see `domain_loss`.
    """
    logits_source, logits_target = (
        discriminator(output_space(logits.detach(), size)) for logits, size in (source, target)
    )
    return DiscriminatorLosses(
        domain_loss(logits_source, SOURCE, kind) / 2,
        domain_loss(logits_target, TARGET, kind) / 2,
        domain_accuracy(logits_source, logits_target, threshold=0.5 if kind == "least_squares" else 0.0),
    )
