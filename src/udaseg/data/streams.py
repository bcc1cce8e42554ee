"""Batches of the source and target streams. What a batch holds is a function of (seed, index) and of nothing else.

So the number of loader processes does not matter, a resumed run sees what the uninterrupted one would have seen, and
two methods of equal seed see the same images in the same views.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from udaseg.config import View
from udaseg.data.classes import IGNORE
from udaseg.data.prepared import PreparedSet
from udaseg.data.views import draw_geometry, jitter_colours
from udaseg.seeding import seed_for


@dataclass(frozen=True)
class Unlabelled:
    """Target images. Target ground truth is not in a batch."""

    image: Tensor  # (B, 3, H, W) float32, RGB in [0, 1]

    def to(self, device: torch.device) -> Self:
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Labelled(Unlabelled):
    label: Tensor  # (B, H, W) int64, 255 = ignore


@dataclass(frozen=True)
class Batch:
    """One step's images; a stream that no active term needs is an empty batch of images."""

    source: Labelled
    target: Unlabelled

    def to(self, device: torch.device) -> "Batch":
        return Batch(source=self.source.to(device), target=self.target.to(device))


class Streams(Dataset[Batch]):
    """Batch number `index` of the streams in use.

    `sets` gives the prepared set of each stream ("source", "target") that is in use, `views` how its images are seen.
    """

    def __init__(self, sets: Mapping[str, PreparedSet], views: Mapping[str, View], seed: int) -> None:
        self.sets, self.views, self.seed = sets, views, seed
        self.names = {stream: prepared.names("train") for stream, prepared in sets.items()}

    def __getitem__(self, index: int) -> Batch:
        labelled = [self._sample("source", index, slot) for slot in self._slots("source")]
        target = [self._sample("target", index, slot)[0] for slot in self._slots("target")]
        return Batch(
            source=Labelled(_stack([image for image, _ in labelled]), _stack([label for _, label in labelled])),
            target=Unlabelled(_stack(target)),
        )

    def _slots(self, stream: str) -> range:
        return range(self.views[stream].batch if stream in self.sets else 0)

    def _sample(self, stream: str, index: int, slot: int) -> tuple[Tensor, Tensor]:
        view, prepared, names = self.views[stream], self.sets[stream], self.names[stream]
        position = index * view.batch + slot
        epoch, place = divmod(position, len(names))
        order = np.random.default_rng(seed_for(self.seed, f"{stream}.order", epoch)).permutation(len(names))
        name = names[int(order[place])]
        generator = torch.Generator().manual_seed(seed_for(self.seed, f"{stream}.view", position))
        image = torch.from_numpy(prepared.image("train", name)).permute(2, 0, 1).float() / 255
        geometry = draw_geometry(view, (image.shape[1], image.shape[2]), generator)
        image, _ = geometry.apply(image, "bilinear")
        image = jitter_colours(image, view, generator).clamp(0, 1)
        if stream == "target":
            return image, torch.empty(0)
        label, valid = geometry.apply(torch.from_numpy(prepared.label("train", name))[None], "nearest")
        return image, label[0].long().masked_fill(~valid, IGNORE)


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if tensors else torch.empty(0)


def batches(streams: Streams, first: int, last: int, workers: int) -> Iterator[Batch]:
    """Batches number `first` up to but not including `last`, in order."""
    # A generator of its own: creating the iterator would otherwise draw from the global one.
    generator = torch.Generator().manual_seed(0)
    loader: DataLoader[Batch] = DataLoader(
        streams, batch_size=None, sampler=range(first, last), num_workers=workers, generator=generator
    )
    return iter(loader)
