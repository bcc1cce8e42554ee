"""DiGA's labels of features and its centroid update: the project's forms against plain ones and the field's loops.

    python benchmarks/consensus.py [--height 64] [--width 112] [--channels 256] [--classes 19] [--images 3]

64 x 112 maps are what 512 x 896 crops give at stride 8; labels are enlarged to eight times the maps' size, which is the
crops'. All forms do that alike, so that a table without it follows. Nothing here has a gradient: each result is
multiplied by a 1 that does, of which the tables tell the gradient.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from association import IGNORE
from measure import Form, compare
from torch import Tensor

from udaseg.ops.prototypes import confirmed_means, momentum_update
from udaseg.ops.pseudo_labels import feature_labels

STRIDE = 8
MIN_PIXELS = 5  # as released
MOMENTUM = 0.1  # released 1e-4, of which a sum would tell little


class Inputs(NamedTuple):
    features: Tensor  # (B, D, h, w), about their class's centre
    logits: Tensor  # (B, C, h, w)
    labels: Tensor  # (B, h, w) int64: what the logits say at two pixels of three, else another class or 255
    centroids: Tensor  # (C, D)
    one: Tensor  # (), 1
    size: tuple[int, int]  # of the labels of features


def inputs(
    height: int, width: int, channels: int, classes: int, images: int, device: torch.device, stride: int = STRIDE
) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    centroids = torch.randn(classes, channels, generator=generator)
    coarse = torch.randint(classes, (images, 1, height // 8, width // 8), generator=generator)
    truth = F.interpolate(coarse.float(), size=(height, width), mode="nearest")[:, 0].long()
    # In place as far as it goes, since the largest size of the process is what is measured.
    features = torch.empty(images, channels, height, width).normal_(generator=generator)
    for image, kinds in zip(features, truth, strict=True):
        for index in range(classes):
            image[:, kinds == index] += centroids[index][:, None]
    logits = torch.randn(images, classes, height, width, generator=generator)
    logits.scatter_add_(1, truth[:, None], torch.full((images, 1, height, width), 5.0))
    draw = torch.rand(truth.shape, generator=generator)
    labels = torch.where(draw < 2 / 3, truth, (truth + 1) % classes).masked_fill(draw > 0.9, IGNORE)
    one = torch.ones((), device=device).requires_grad_()
    size = (stride * height, stride * width)
    return Inputs(features.to(device), logits.to(device), labels.to(device), centroids.to(device), one, size)


def as_number(labels: Tensor, given: Inputs) -> Tensor:
    """A sum that tells label maps apart."""
    places = torch.arange(labels.numel(), device=labels.device) % 1009
    return (labels.flatten() * places).float().mean() * given.one


# ---------------------------------------------------------------------------------------------- labels of features


def product(given: Inputs) -> Tensor:
    return as_number(feature_labels(given.features, given.centroids, given.size).labels, given)


def enlarged(distances: Tensor, given: Inputs) -> Tensor:
    """From distances (B, C, h, w)."""
    weights = (-distances).softmax(dim=1)
    weights = F.interpolate(weights, given.size, mode="bilinear", align_corners=True)
    return as_number(weights.argmax(dim=1), given)


def cdist(given: Inputs) -> Tensor:
    rows = given.features.flatten(2).mT  # (B, h*w, D)
    distances = torch.cdist(rows, given.centroids.expand(len(rows), -1, -1))
    return enlarged(distances.mT.unflatten(2, given.features.shape[2:]), given)


def broadcasting(given: Inputs) -> Tensor:
    apart = given.features[:, None] - given.centroids[:, :, None, None]  # (B, C, D, h, w)
    return enlarged(apart.norm(dim=2), given)


def loop_over_classes(given: Inputs) -> Tensor:
    distances = [(given.features - centre[:, None, None]).norm(dim=1) for centre in given.centroids]
    return enlarged(torch.stack(distances, dim=1), given)


# ------------------------------------------------------------------------------------------------- centroid update


def moved(given: Inputs) -> Tensor:
    means = confirmed_means(given.features, given.logits, given.labels, MIN_PIXELS)
    counts = torch.ones(len(given.centroids), device=given.one.device)
    centroids, _ = momentum_update(given.centroids, counts, means, MOMENTUM)
    return centroids.norm() * given.one


def scattered(given: Inputs) -> Tensor:
    """Sums by adding rows in their places, then the moving means image by image."""
    classes, channels = given.centroids.shape
    kept = given.labels == given.logits.argmax(dim=1)
    image = torch.arange(len(kept), device=kept.device)[:, None, None]
    places = (image * classes + given.labels)[kept]
    sums = given.features.new_zeros(len(kept) * classes, channels)
    sums.index_add_(0, places, given.features.movedim(1, -1)[kept])
    pixels = places.bincount(minlength=len(sums))
    vectors = (sums / pixels.clamp(min=1)[:, None]).view(-1, classes, channels)
    there = pixels.view(-1, classes) >= MIN_PIXELS
    centroids = given.centroids
    for vector, present in zip(vectors, there, strict=True):
        following = (1 - MOMENTUM) * centroids + MOMENTUM * vector
        centroids = torch.where(present[:, None], following, centroids)
    return centroids.norm() * given.one


def loop_over_images_and_classes(given: Inputs) -> Tensor:
    centroids = given.centroids.clone()
    predicted = given.logits.argmax(dim=1)
    for feature, label, said in zip(given.features, given.labels, predicted, strict=True):
        for index in range(len(centroids)):
            kept = (label == index) & (said == index)
            if kept.sum() < MIN_PIXELS:
                continue
            vector = (feature * kept).sum(dim=(1, 2)) / kept.sum()
            centroids[index] = (1 - MOMENTUM) * centroids[index] + MOMENTUM * vector
    return centroids.norm() * given.one


LABELS = [
    Form("project", product, inputs),
    Form("torch.cdist", cdist, inputs),
    Form("broadcasting", broadcasting, inputs),
    Form("loop over classes", loop_over_classes, inputs),
]
UPDATE = [
    Form("project", moved, inputs),
    Form("index_add", scattered, inputs),
    Form("loop over images and classes", loop_over_images_and_classes, inputs),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=64, help="of the feature maps")
    parser.add_argument("--width", type=int, default=112, help="of the feature maps")
    parser.add_argument("--channels", type=int, default=256, help="of the features")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--images", type=int, default=3)
    options = vars(parser.parse_args())
    tiny = options | {"height": 8, "width": 8, "images": 1}
    print(compare("labels of features", LABELS, options, tiny), flush=True)
    plain = {"stride": 1}
    print(compare("labels of features, not enlarged", LABELS, options | plain, tiny | plain), flush=True)
    print(compare("centroid update", UPDATE, options, tiny), flush=True)


if __name__ == "__main__":
    main()
