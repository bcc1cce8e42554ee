"""PiPa's pixel and patch contrasts with their backward pass: the project's form against plain ones.

    python benchmarks/contrast.py [--size 160] [--channels 256] [--cells 90] [--patch-channels 128] [--classes 19]

160 x 160 maps are what 640 x 640 crops give at stride 4, 90 x 90 what 720 x 720 ones give at stride 8; two images each.
The released form of the pixel contrast draws at most 1024 pixels; plain is the field's double loop over images and
classes with an indexing each. In the paper's forms plain means all pixels, and all places that both crops show, against
all others, where the project draws so many of a class, and so many of an image. Only where these draw everything is the
value the same.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from association import IGNORE, regions
from measure import Form, compare
from torch import Tensor

from udaseg.ops.maps import as_rows, take_pixels
from udaseg.ops.patch_contrast import paired_contrast
from udaseg.ops.patches import Box, CropPair, corresponding_cells
from udaseg.ops.pixel_contrast import draw_pixels, hard_contrast, pixel_contrast, sample_views

IMAGES = 2
TEMPERATURE, BASE = 0.1, 0.07  # as released
VIEWS, SAMPLES = 100, 1024  # pixels of an image's class, and in all: as released
HARD = 0.1  # of positives and negatives that count, as in the paper
PER_CLASS, ANCHORS = 100, 256  # what the method's paper form draws of a class, and of an image's shared places
STRIDE = 8  # of the patches' cells


class Pixels(NamedTuple):
    embedding: Tensor  # (B, D, h, w) of length 1
    labels: Tensor  # (B, h, w) int64
    predicted: Tensor  # (B, h, w) int64, wrong at about three pixels in ten


class Patches(NamedTuple):
    embedding: Tensor  # (2B, D, h, w) of length 1, of all first and then all second crops
    boxes: list[tuple[Box, Box]]  # what the crops of each image share: about a half of each


def unit_maps(images: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """In place, since the largest size of the process is what is measured."""
    maps = torch.empty(images, channels, size, size).normal_(generator=generator)
    for one in maps:
        one /= one.norm(dim=0)
    return maps


def pixels(size: int, channels: int, classes: int, device: torch.device) -> Pixels:
    generator = torch.Generator().manual_seed(0)
    labels = regions(size, classes, generator, IMAGES)
    wrong = torch.rand(labels.shape, generator=generator) < 0.3
    predicted = torch.where(wrong, torch.randint(0, classes, labels.shape, generator=generator), labels)
    embedding = unit_maps(IMAGES, channels, size, generator).to(device).requires_grad_()
    return Pixels(embedding, labels.to(device), predicted.to(device))


def patches(size: int, channels: int, device: torch.device) -> Patches:
    embedding = unit_maps(2 * IMAGES, channels, size, torch.Generator().manual_seed(0)).to(device).requires_grad_()
    shift = round(0.3 * size) * STRIDE  # along both axes: 0.7 squared of each crop is shared
    side = size * STRIDE
    crops = CropPair((side + shift, side + shift), (side, side), (0, 0), (shift, shift), (False, False))
    return Patches(embedding, [crops.boxes] * IMAGES)


def released(inputs: Pixels) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    views = sample_views(inputs.labels, inputs.predicted, generator, VIEWS, SAMPLES, ignore=None)
    return pixel_contrast(take_pixels(inputs.embedding, views.indices), views.classes, TEMPERATURE, BASE)


def plain_released(inputs: Pixels) -> Tensor:
    """The same pixels, as they are drawn in the same order. 255 is a class, as released."""
    generator = torch.Generator().manual_seed(0)
    vectors = inputs.embedding.movedim(1, -1).flatten(1, 2)  # (B, L, D)
    labels, predicted = inputs.labels.flatten(1), inputs.predicted.flatten(1)
    pairs = []
    for image in range(IMAGES):
        for label in labels[image].unique().tolist():
            if (labels[image] == label).sum() > VIEWS:
                pairs.append((image, label))
    views = min(SAMPLES // len(pairs), VIEWS)
    drawn = []
    for image, label in pairs:
        of_class, wrong = labels[image] == label, predicted[image] != label
        hard, easy = (of_class & wrong).nonzero()[:, 0], (of_class & ~wrong).nonzero()[:, 0]
        if len(hard) >= views / 2 and len(easy) >= views / 2:
            keep = views // 2
        elif len(hard) >= views / 2:
            keep = views - len(easy)
        else:
            keep = len(hard)
        hard = hard[torch.randperm(len(hard), generator=generator)[:keep]]
        easy = easy[torch.randperm(len(easy), generator=generator)[: views - keep]]
        drawn.append(vectors[image, torch.cat([hard, easy])])
    anchors = torch.cat(drawn)
    classes = torch.tensor([label for _, label in pairs], device=labels.device).repeat_interleave(views)

    similarity = anchors @ anchors.T / TEMPERATURE
    similarity = similarity - similarity.amax(dim=1, keepdim=True).detach()
    same = classes[:, None] == classes
    positive = same & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    against = (similarity.exp() * ~same).sum(dim=1, keepdim=True)
    log_likelihood = similarity - (similarity.exp() + against).log()
    return -(TEMPERATURE / BASE) * ((log_likelihood * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def paper(inputs: Pixels) -> Tensor:
    drawn = draw_pixels(inputs.labels, PER_CLASS, torch.Generator().manual_seed(0))
    vectors = take_pixels(inputs.embedding, drawn)
    return hard_contrast(vectors, inputs.labels.flatten()[drawn], TEMPERATURE, HARD)


def plain_paper(inputs: Pixels) -> Tensor:
    """All pixels of a class against all labelled ones, class by class."""
    labelled = inputs.labels.flatten() != IGNORE
    vectors, labels = inputs.embedding.movedim(1, -1).flatten(0, 2)[labelled], inputs.labels.flatten()[labelled]
    losses = []
    for label in labels.unique():
        mine = labels == label
        count = int(mine.sum())
        if count < 2 or count == len(labels):
            continue
        similarity = vectors[mine] @ vectors.T / TEMPERATURE
        itself = torch.eye(count, dtype=torch.bool, device=labels.device)
        of_class = similarity[:, mine].masked_fill(itself, torch.inf)
        positives = of_class.topk(max(1, round(HARD * (count - 1))), largest=False).values
        negatives = similarity[:, ~mine].topk(max(1, round(HARD * (len(labels) - count)))).values
        losses.append(F.softplus(negatives.logsumexp(dim=1, keepdim=True) - positives).mean(dim=1))
    return torch.cat(losses).mean()


def patch(inputs: Patches) -> Tensor:
    size = (inputs.embedding.shape[2], inputs.embedding.shape[3])
    first, second = corresponding_cells(inputs.boxes, size, STRIDE, ANCHORS, torch.Generator().manual_seed(0))
    rows = as_rows(inputs.embedding)
    return paired_contrast(rows, first.to(rows.device), second.to(rows.device), TEMPERATURE, HARD)


def plain_patch(inputs: Patches) -> Tensor:
    """All places that both crops show against all cells, in one matrix for each direction."""
    cells = torch.arange(inputs.embedding[:, 0].numel()).view(inputs.embedding[:, 0].shape)
    shared: tuple[list[Tensor], list[Tensor]] = ([], [])
    for image, boxes in enumerate(inputs.boxes):
        for crop, box in enumerate(boxes):
            top, left, bottom, right = (edge // STRIDE for edge in box)
            shared[crop].append(cells[crop * IMAGES + image, top:bottom, left:right].flatten())
    first, second = (torch.cat(places).to(inputs.embedding.device) for places in shared)
    rows = inputs.embedding.movedim(1, -1).flatten(0, 2)
    losses = []
    for anchors, positives in ((first, second), (second, first)):
        similarity = rows[anchors] @ rows.T / TEMPERATURE
        likeness = similarity.gather(1, positives[:, None])
        places = torch.stack([anchors, positives], dim=1)
        others = similarity.scatter(1, places, -torch.inf)
        hard = others.topk(max(1, round(HARD * (len(rows) - 2))), dim=1).values
        losses.append((torch.cat([likeness, hard], dim=1).logsumexp(dim=1) - likeness[:, 0]).mean())
    return losses[0] + losses[1]


PIXEL_FORMS = {
    "pixel contrast, released": [Form("project", released, pixels), Form("double loop", plain_released, pixels)],
    "pixel contrast, paper": [
        Form(f"project, {PER_CLASS} pixels a class", paper, pixels),
        Form("all pixels", plain_paper, pixels),
    ],
}
PATCH_FORMS = [
    Form(f"project, {ANCHORS} places an image", patch, patches),
    Form("all shared places", plain_patch, patches),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="side of the pixel contrast's maps")
    parser.add_argument("--channels", type=int, default=256, help="of the pixels' embedding")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--cells", type=int, default=90, help="side of the patch contrast's maps")
    parser.add_argument("--patch-channels", type=int, default=128, help="of the patches' embedding")
    options = parser.parse_args()
    of_pixels = {"size": options.size, "channels": options.channels, "classes": options.classes}
    for title, forms in PIXEL_FORMS.items():
        print(compare(title, forms, of_pixels, tiny=of_pixels | {"size": 32, "classes": 2}), flush=True)
    of_patches = {"size": options.cells, "channels": options.patch_channels}
    print(compare("patch contrast, paper", PATCH_FORMS, of_patches, tiny=of_patches | {"size": 10}), flush=True)


if __name__ == "__main__":
    main()
