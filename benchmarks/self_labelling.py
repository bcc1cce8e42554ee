"""CPSL's queue and its rectified labels: the project's forms against plain ones and those of release and field.

    python benchmarks/self_labelling.py [--queue 65536] [--rows 256] [--channels 256] [--classes 19] [--size 128 224]

The queue takes an image's rows: the project writes them in place, as a ring; the release moves all others back first.
Rectified labels are the most probable classes by the product of stored soft labels and the softmax of cosines to
prototypes: the project takes all classes in one product, the field (ProDA's code and what grew out of it) one after the
other. Beside them stands what one would write in a line or two. Nothing here has a gradient of its own: the loss is a
number that tells whether all forms find the same.
128 x 224 maps are what 512 x 896 crops give at stride 4.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measure import Form, compare
from torch import Tensor

from udaseg.nets.prototype_assignment import FeatureQueue
from udaseg.ops.prototype_assignment import cosine_logits
from udaseg.ops.pseudo_labels import rectified_labels

IMAGES = 4
TEMPERATURE = 0.08  # as released
PUSHES = 16  # of the queue's, as many as four steps of four images make


class Pushed(NamedTuple):
    queue: FeatureQueue  # full
    rows: list[Tensor]  # (n, D) of length 1
    scale: Tensor  # () 1, through which there is something to differentiate


class Rectified(NamedTuple):
    features: Tensor  # (B, D, h, w)
    prototypes: Tensor  # (K, D)
    soft: Tensor  # (B, K, h, w)
    scale: Tensor


def one(device: torch.device) -> Tensor:
    return torch.ones((), device=device, requires_grad=True)


def pushed(queue: int, rows: int, channels: int, device: torch.device) -> Pushed:
    generator = torch.Generator().manual_seed(0)
    found = FeatureQueue(queue, channels).to(device)
    while not found.full:  # by parts, since the largest size of the process is what is measured
        found.push(F.normalize(torch.randn(rows, channels, generator=generator), dim=1).to(device))
    new = [F.normalize(torch.randn(rows, channels, generator=generator), dim=1).to(device) for _ in range(PUSHES)]
    return Pushed(found, new, one(device))


def maps(height: int, width: int, channels: int, classes: int, device: torch.device) -> Rectified:
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(IMAGES, channels, height, width).normal_(generator=generator)
    soft = torch.randn(IMAGES, classes, height, width, generator=generator).softmax(dim=1)
    prototypes = torch.randn(classes, channels, generator=generator)
    return Rectified(features.to(device), prototypes.to(device), soft.to(device), one(device))


def ring(inputs: Pushed) -> Tensor:
    for rows in inputs.rows:
        inputs.queue.push(rows)
    return _told(inputs.queue.ring.sum(dim=1).square().sum(), inputs.scale)


def shifted(inputs: Pushed) -> Tensor:
    queue = inputs.queue.ring
    for rows in inputs.rows:
        queue[len(rows) :] = queue[: -len(rows)].clone()
        queue[: len(rows)] = rows
    return _told(queue.sum(dim=1).square().sum(), inputs.scale)


def concatenated(inputs: Pushed) -> Tensor:
    queue = inputs.queue.ring
    for rows in inputs.rows:
        queue = torch.cat([rows, queue[: -len(rows)]])
    return _told(queue.sum(dim=1).square().sum(), inputs.scale)


def together(inputs: Rectified) -> Tensor:
    weights = cosine_logits(inputs.features, inputs.prototypes, TEMPERATURE).softmax(dim=1)
    return _told(rectified_labels(inputs.soft, weights).labels, inputs.scale)


def einsum(inputs: Rectified) -> Tensor:
    features, prototypes = F.normalize(inputs.features, dim=1), F.normalize(inputs.prototypes, dim=1)
    cosines = torch.einsum("bdhw,kd->bkhw", features, prototypes)
    product = (cosines / TEMPERATURE).softmax(dim=1) * inputs.soft
    return _told(product.argmax(dim=1), inputs.scale)


def class_by_class(inputs: Rectified) -> Tensor:
    scores = torch.empty_like(inputs.soft)
    for index, prototype in enumerate(inputs.prototypes):
        whole = prototype[:, None, None].expand_as(inputs.features[0])
        scores[:, index] = F.cosine_similarity(inputs.features, whole[None], dim=1)
    product = (scores / TEMPERATURE).softmax(dim=1) * inputs.soft
    return _told(product.argmax(dim=1), inputs.scale)


def _told(found: Tensor, scale: Tensor) -> Tensor:
    """A number that says what was found."""
    return found.double().mean() * scale


QUEUE_FORMS = [
    Form("ring, in place", ring, pushed),
    Form("torch.cat", concatenated, pushed),
    Form("whole queue moved", shifted, pushed),
]
LABEL_FORMS = [
    Form("all classes at once", together, maps),
    Form("einsum, normalised", einsum, maps),
    Form("class by class", class_by_class, maps),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=int, default=65536, help="rows of the queue")
    parser.add_argument("--rows", type=int, default=256, help="of an image")
    parser.add_argument("--channels", type=int, default=256, help="of features")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 224), help="height and width of the maps")
    options = parser.parse_args()
    of_queue = {"queue": options.queue, "rows": options.rows, "channels": options.channels}
    title = f"queue, {PUSHES} images"
    print(compare(title, QUEUE_FORMS, of_queue, tiny=of_queue | {"queue": 2 * options.rows}), flush=True)
    height, width = options.size
    of_maps = {"height": height, "width": width, "channels": options.channels, "classes": options.classes}
    title = f"rectified labels, {IMAGES} images"
    print(compare(title, LABEL_FORMS, of_maps, tiny=of_maps | {"height": 8, "width": 8}), flush=True)


if __name__ == "__main__":
    main()
