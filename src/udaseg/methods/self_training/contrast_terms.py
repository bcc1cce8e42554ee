"""The two terms of PiPa, the contrasts of pixels and of patches, with their projections. For the paper see `pipa`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udaseg.data.batches.streams import Labelled
from udaseg.errors import UserError
from udaseg.methods.base import Context, Step
from udaseg.nets.base import Outputs
from udaseg.nets.projection import PatchProjection, PixelProjection, SideClassifier
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.augment import strong_augmentation
from udaseg.ops.maps import as_rows, take_pixels
from udaseg.ops.patch_contrast import Bank, bank_contrast, empty_bank, paired_contrast, pushed
from udaseg.ops.patches import CropPair, corresponding_cells, draw_pair, resized_to, to_cells, upright
from udaseg.ops.pixel_contrast import draw_pixels, hard_contrast, pixel_contrast, sample_views
from udaseg.seeding import seed_for

BANK_STEPS, BANK_CELLS = 3, 1600  # as released: steps that the bank keeps, and cells that it takes of each crop's maps


class PixelPatch(nn.Module):
    """Computes the two terms. It has only the parts of the terms that are active.

    Args:
        context: of a run with `ContrastKnobs`.
        channels: channels of the network's embedding.
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
        """L_pixel, from the network's outputs for labelled images."""
        maps, knobs = source.features["embedding"], self.knobs
        generator = self._generator("contrast.pixel", step)
        # Whole numbers up to 255 stay exact in float32; a cell has the label of its first pixel, as released.
        labels = F.interpolate(labelled.label[:, None].float(), maps.shape[2:], mode="nearest")[:, 0].long()
        embeddings = self.pixels(maps)
        if knobs.pixel == "paper":
            drawn = draw_pixels(labels, knobs.pixels_per_class, generator)
            chosen = labels.flatten()[drawn]
            return hard_contrast(take_pixels(embeddings, drawn), chosen, knobs.temperature, knobs.hard_share)
        # Its dropout draws from the global generator, which must give the host the same numbers as without the plug-in.
        with torch.no_grad(), torch.random.fork_rng([maps.device] if maps.is_cuda else []):
            predicted = self.side(maps).argmax(dim=1)
        views = sample_views(labels, predicted, generator, knobs.pixels_per_class, ignore=None)
        return pixel_contrast(take_pixels(embeddings, views.indices), views.classes, knobs.temperature)

    def patch(self, look: Callable[[Tensor], Outputs], judge: EmaTeacher | None, images: Tensor, step: Step) -> Tensor:
        """L_patch of images (B, 3, H, W).

        Args:
            look: the network whose features of the crops are compared.
            judge: the teacher, if the paper form's negatives must be of another pseudo-class.
            images: whole target images, or mixed ones, which are augmented already.
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
        bank = self._extended(rows, labels, generator)
        found = bank_contrast(rows, first, second, labels, confidence, bank, knobs.temperature, knobs.patch_confidence)
        step.log("patch_anchors", found.counted.sum())
        return found.loss

    def _generator(self, purpose: str, step: Step) -> torch.Generator:
        """Not the step's generator, so that the host draws the same numbers with and without the plug-in.

        The batches of one step share what is drawn: places and sizes, not images.
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

    def _extended(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> Bank:
        """The bank with random rows of both crops of this step added."""
        half = len(rows) // 2
        kept = torch.cat([crop * half + torch.randperm(half, generator=generator)[:BANK_CELLS] for crop in (0, 1)])
        kept = kept.to(rows.device)
        bank = pushed(Bank(self.bank, self.bank_labels), rows[kept].detach(), labels[kept])
        self.bank, self.bank_labels = bank
        return bank
