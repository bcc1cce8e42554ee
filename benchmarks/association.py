"""PLCA's association loss with its backward pass: the project's rows-at-a-time form against full L x L matrices.

    python benchmarks/association.py [--size 92] [--channels 2048] [--classes 19]

92 x 92 maps are what PLCA's 730 x 730 crops give at stride 8. The plain form here is the equations of the paper's
release one after the other, and lets the library's differentiation hold what it needs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measure import Form, compare
from torch import Tensor

from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import Metric, association_loss

IGNORE = 255
SHARE = 0.5  # of the aggregate in a target position, as released


class Pair(NamedTuple):
    source: Tensor  # (B, C, h, w) features, or probabilities
    target: Tensor
    labels: Tensor  # (B, h, w) int64, of the source


def feature_maps(size: int, channels: int, classes: int, device: torch.device) -> Pair:
    """One pair of images with features near those of their class, and above 0 as behind a ReLU.

    Nearly all walks are consistent then: the case in which the project's form has most to do.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, channels, generator=generator)
    labels = regions(size, classes, generator)
    # In place as far as it goes, since the largest size of the process is what is measured.
    source, target = (torch.empty(1, channels, size, size).normal_(generator=generator) for _ in range(2))
    for maps, kinds in ((source, labels), (target, regions(size, classes, generator))):
        for index in range(classes):
            maps[0, :, kinds[0] == index] += centres[index][:, None]
        maps.relu_()
    return Pair(source.to(device).requires_grad_(), target.to(device).requires_grad_(), labels.to(device))


def predictions(size: int, channels: int, classes: int, device: torch.device) -> Pair:
    """As `feature_maps`, with probabilities of the classes for channels; about half of the walks are consistent."""
    source, target, labels = feature_maps(size, classes, classes, device)
    source, target = (maps.detach().softmax(dim=1).requires_grad_() for maps in (source, target))
    return Pair(source, target, labels)


def regions(size: int, classes: int, generator: torch.Generator, images: int = 1) -> Tensor:
    """Labels (images, size, size) in squares of an eighth of the side, about one in twenty of them ignored."""
    coarse = torch.randint(0, classes, (images, 1, 8, 8), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < 0.05] = IGNORE
    return F.interpolate(coarse.float(), size=(size, size), mode="nearest")[:, 0].long()


def project(pair: Pair, metric: Metric, aggregate: bool) -> Tensor:
    target = pair.target
    if aggregate:
        target = (aggregate_features if metric == "cosine" else aggregate_predictions)(target, SHARE)
    return association_loss(pair.source, target, pair.labels, metric).loss


def plain(pair: Pair, metric: Metric, aggregate: bool) -> Tensor:
    """The mean of -log(A_st A_ts) over the walks whose ends share a label, with all matrices at once."""
    similarity = plain_cosine if metric == "cosine" else plain_divergence
    starts, ends = (maps.flatten(2).mT for maps in (pair.source, pair.target))  # (B, L, D)
    labels = pair.labels.flatten(1)
    if aggregate:
        weights = similarity(ends, ends)
        weights = plain_contrast(weights) if metric == "cosine" else weights.softmax(dim=-1)
        ends = (1 - SHARE) * ends + SHARE * weights @ ends
    there = similarity(starts, ends)
    back = there.mT if metric == "cosine" else similarity(ends, starts)
    there, back = plain_contrast(there), plain_contrast(back)
    middle = there.argmax(dim=-1)  # (B, L)
    end = back.argmax(dim=-1).gather(1, middle)
    positive = (labels != IGNORE) & (labels.gather(1, end) == labels)
    image = torch.arange(len(labels), device=labels.device)[:, None]
    scores = there.gather(2, middle[..., None])[..., 0] * back[image, middle, end]
    return F.binary_cross_entropy(scores[positive], torch.ones_like(scores[positive]))


def plain_cosine(starts: Tensor, ends: Tensor) -> Tensor:
    return F.normalize(starts, dim=-1) @ F.normalize(ends, dim=-1).mT


def plain_divergence(starts: Tensor, ends: Tensor) -> Tensor:
    """Minus the Kullback-Leibler divergence of each pair."""
    entropy = (starts * (starts + 1e-10).log()).sum(dim=-1, keepdim=True)
    return starts @ (ends + 1e-10).log().mT - entropy


def plain_contrast(similarity: Tensor) -> Tensor:
    std, mean = torch.std_mean(similarity.detach(), dim=-1, keepdim=True)
    return ((similarity - mean) / (std + 1e-10)).softmax(dim=-1)


def forms_of(inputs: Callable[..., Pair], metric: Metric, aggregate: bool) -> list[Form]:
    return [
        Form("rows at a time", partial(project, metric=metric, aggregate=aggregate), inputs),
        Form("whole matrices", partial(plain, metric=metric, aggregate=aggregate), inputs),
    ]


FORMS = {
    "features": forms_of(feature_maps, "cosine", aggregate=False),
    "features, target aggregated": forms_of(feature_maps, "cosine", aggregate=True),
    "predictions": forms_of(predictions, "divergence", aggregate=False),
    "predictions, target aggregated": forms_of(predictions, "divergence", aggregate=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=92, help="side of the maps")
    parser.add_argument("--channels", type=int, default=2048, help="of features")
    parser.add_argument("--classes", type=int, default=19, help="of predictions")
    options = vars(parser.parse_args())
    for title, forms in FORMS.items():
        print(compare(title, forms, options, tiny=options | {"size": 16}), flush=True)


if __name__ == "__main__":
    main()
