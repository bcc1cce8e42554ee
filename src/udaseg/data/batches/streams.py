"""Batches of the source and target streams. What a batch holds is a function of (seed, index) and of nothing else.

So the number of loader processes does not matter, a resumed run sees what the uninterrupted one would have seen, and
two methods of equal seed see the same images in the same views.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from udaseg.config.training import SourceView, TargetView
from udaseg.data.batches.samplers import RareClasses, Sampler, Shuffled, labelled_subset, pixel_counts, subset, turn
from udaseg.data.batches.strong import strong_view
from udaseg.data.batches.views import (
    Geometry,
    centred_at,
    crop_then_resize,
    draw_accepted,
    draw_geometry,
    jitter_colours,
)
from udaseg.data.sets.pseudo_labels import PseudoLabels
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.ops.warp import Warp
from udaseg.seeding import seed_for
from udaseg.types import IGNORE

VIEWS = ("source", "target", "target.pseudo", "target.soft", "target.full", "target.strong")


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True)
class Stream:
    """Images of one stream and what belongs to them. A view that was not requested is an empty tensor or tuple."""

    image: Tensor = field(default_factory=_nothing)  # (B, 3, H, W) float32, RGB in [0, 1]

    def to(self, device: torch.device) -> Self:
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        return type(self)(
            **{n: value.to(device) if isinstance(value, Tensor) else value for n, value in values.items()}
        )


@dataclass(frozen=True)
class Labelled(Stream):
    label: Tensor = field(default_factory=_nothing)  # (B, H, W) int64, 255 = ignore
    from_target: bool | None = None  # semi-supervised: whether these are target images; None: not semi-supervised


@dataclass(frozen=True)
class Target(Stream):
    """Views of the same target crops. No ground truth is among them."""

    valid: Tensor = field(default_factory=_nothing)  # (B, H, W) bool, False where the crop reaches beyond the image
    pseudo: Tensor = field(default_factory=_nothing)  # (B, H, W) int64, pseudo-labels of an earlier stage, 255 = none
    soft: Tensor = field(default_factory=_nothing)  # (B, C, H//4, W//4) float32, soft ones: sum 1, or all 0 = none
    full: Tensor = field(default_factory=_nothing)  # (B, 3, h, w) float32, the whole image, not augmented
    geometry: tuple[Geometry, ...] = ()  # B, how each crop was cut out of the whole image
    strong: Tensor = field(default_factory=_nothing)  # (B, 3, H, W) float32, strongly augmented view of `image`
    warps: tuple[Warp, ...] = ()  # B, the geometry of each strong view relative to `image`


@dataclass(frozen=True)
class Batch:
    """One step's images."""

    source: Labelled
    target: Target

    def to(self, device: torch.device) -> "Batch":
        return Batch(source=self.source.to(device), target=self.target.to(device))


class Streams(Dataset[Batch]):
    """Batch number `index` of the requested views.

    Args:
        sets: prepared set of each stream, "source" and "target".
        source, target: how the images of a stream are chosen and augmented.
        seed: of the run.
        wanted: names among `VIEWS`; "target.x" comes with "target".
        labels: pseudo-labels of the target, for "target.pseudo", "target.soft" and patch mining.
        total: number of batches of the run, on which the order of labelled target images depends.

    Raises:
        UserError: rare class sampling finds no image, or the target has too few images for `labelled_target`.
    """

    def __init__(
        self,
        sets: Mapping[str, PreparedSet],
        source: SourceView,
        target: TargetView,
        seed: int,
        wanted: Collection[str],
        labels: PseudoLabels | None = None,
        total: int = 0,
    ) -> None:
        if stray := sorted(set(wanted) - set(VIEWS)):
            raise ValueError(f"views {stray} are not among {VIEWS}")
        self.sets, self.source, self.target, self.seed = sets, source, target, seed
        self.wanted, self.labels, self.total = frozenset(wanted), labels, total
        self.names: dict[str, list[str]] = {}
        self.samplers: dict[str, Sampler] = {}
        if "source" in self.wanted:
            self.names["source"] = subset(sets["source"].names("train"), source.portion, seed, "source")
            self.samplers["source"] = self._source_sampler()
        given: list[str] = []
        if source.labelled_target is not None:
            given = labelled_subset(sets["target"].names("train"), source.labelled_target.images, seed)
            self.names["labelled_target"] = given
            self.samplers["labelled_target"] = Shuffled(len(given), seed, "labelled_target")
        if "target" in self.wanted:
            self.names["target"] = sorted(set(sets["target"].names("train")) - set(given))
            if not self.names["target"]:
                raise UserError(
                    f"train.source.labelled_target.images: all {len(given)} target images have labels, so none is left "
                    "to adapt to; lower it"
                )
            self.samplers["target"] = Shuffled(len(self.names["target"]), seed, "target")

    def _source_sampler(self) -> Sampler:
        names = self.names["source"]
        if self.source.rare is None:
            return Shuffled(len(names), self.seed, "source")
        pixels = pixel_counts(self.sets["source"].statistics(), names)
        return RareClasses(pixels, self.source.rare, self.seed, "source")

    def __getitem__(self, index: int) -> Batch:
        mixed = self.source.labelled_target
        from_target, place = (None, index) if mixed is None else turn(index, self.total, mixed)
        stream = "labelled_target" if from_target else "source"
        source = [self._labelled_sample(stream, place * self.source.batch + slot) for slot in self._slots("source")]
        target = [self._target_sample(index * self.target.batch + slot) for slot in self._slots("target")]
        return Batch(Labelled(**_collated(source), from_target=from_target), Target(**_collated(target)))

    def _slots(self, stream: str) -> range:
        return range((self.source if stream == "source" else self.target).batch if stream in self.wanted else 0)

    def _labelled_sample(self, stream: str, position: int) -> dict[str, Any]:
        """Image and label of "source", or of "labelled_target", which lies in the target's set."""
        place, wanted = self.samplers[stream](position)
        domain, name = "source" if stream == "source" else "target", self.names[stream][place]
        image, label = self._image(domain, name), torch.from_numpy(self.sets[domain].label("train", name))[None]
        seen = label  # the label map in the geometry drawn last

        def acceptable(geometry: Geometry) -> bool:
            nonlocal seen
            view, valid = geometry.apply(label, "nearest")
            seen = view[0].long().masked_fill(~valid, IGNORE)
            return self._acceptable(seen, wanted)

        generator = self._generator(f"{stream}.view", position)
        geometry = draw_accepted(self.source, (image.shape[1], image.shape[2]), generator, acceptable)
        picture = jitter_colours(geometry.apply(image, "bilinear")[0], self.source, generator).clamp(0, 1)
        return {"image": picture, "label": seen}

    def _acceptable(self, label: Tensor, wanted: int | None) -> bool:
        """Whether no class fills too much of a crop's label map (H, W), and the wanted class fills enough of it."""
        counts = label[label != IGNORE].bincount(minlength=1)
        if int(counts.max()) > self.source.max_class_share * int(counts.sum()):
            return False
        if wanted is None or self.source.rare is None:
            return True
        return int((label == wanted).sum()) > self.source.rare.crop_share * self.source.rare.min_pixels

    def _target_sample(self, position: int) -> dict[str, Any]:
        place, _ = self.samplers["target"](position)
        name = self.names["target"][place]
        image = self._image("target", name)
        generator = self._generator("target.view", position)
        geometry = draw_geometry(self.target, (image.shape[1], image.shape[2]), generator)
        geometry = self._mined(geometry, name, position)
        picture, valid = geometry.apply(image, "bilinear")
        picture = jitter_colours(picture, self.target, generator).clamp(0, 1)
        sample: dict[str, Any] = {"image": picture, "valid": valid}
        if "target.pseudo" in self.wanted:
            label, _ = geometry.apply(self._pseudo(name)[None], "nearest")
            sample["pseudo"] = label[0].long().masked_fill(~valid, IGNORE)
        if "target.soft" in self.wanted:
            sample["soft"] = soft_view(self._labels().soft(name), geometry.at(1 / 4))
        if "target.full" in self.wanted:
            sample |= {"full": image, "geometry": geometry}
        if "target.strong" in self.wanted:
            sample["strong"], sample["warps"] = strong_view(picture, self._generator("target.strong", position))
        return sample

    def _mined(self, geometry: Geometry, name: str, position: int) -> Geometry:
        """With the chance `target.mine`, the crop is moved onto a pixel of a class rare in the pseudo-labels (CBST)."""
        generator = self._generator("target.mine", position)
        by_chance, of_class, of_pixel = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if by_chance >= self.target.mine or "target.pseudo" not in self.wanted:
            return geometry
        label = self._pseudo(name)
        there = [index for index in self._labels().mine if bool((label == index).any())]
        if not there:
            return geometry
        pixels = (label == there[int(of_class * len(there))]).nonzero()
        row, column = pixels[int(of_pixel * len(pixels))].tolist()
        return centred_at(geometry, (row, column), (label.shape[0], label.shape[1]))

    def _image(self, stream: str, name: str) -> Tensor:
        return torch.from_numpy(self.sets[stream].image("train", name)).permute(2, 0, 1).float() / 255

    def _pseudo(self, name: str) -> Tensor:
        return torch.from_numpy(self._labels().hard(name))

    def _labels(self) -> PseudoLabels:
        if self.labels is None:
            raise ValueError(f"the views {sorted(self.wanted)} need pseudo-labels, but none were given")
        return self.labels

    def _generator(self, purpose: str, position: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_for(self.seed, purpose, position))


def soft_view(soft: Tensor, geometry: Geometry) -> Tensor:
    """The crop of a stored soft label map; it is cropped before it is resized.

    Args:
        soft: (C, h, w) uint8, 255 = 1; all classes 0 where there is no label.
        geometry: at the scale of the result.

    Returns:
        (C, *crop) float32: sum 1 over the classes, or all 0 where there is no label or no image.
    """
    parts, valid = crop_then_resize(soft, geometry)
    total = parts.sum(0)
    # Between a labelled cell and one without a label, the nearer one decides.
    there = (total >= 255 / 2) & valid
    return torch.where(there, parts / total.clamp(min=1), 0.0)


def _collated(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A list of samples as one batch: tensors are stacked, everything else becomes a tuple."""
    columns = {name: [sample[name] for sample in samples] for name in (samples[0] if samples else ())}
    return {n: torch.stack(column) if isinstance(column[0], Tensor) else tuple(column) for n, column in columns.items()}
