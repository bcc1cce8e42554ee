"""Pixel counts of a split's labels, and which classes resizing has lost."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from udaseg.types import IGNORE


class SplitStatistics:
    """Collects over a split's labelled images; `result` is that split's entry of statistics.json."""

    def __init__(self, names: Sequence[str], classes: Sequence[str]) -> None:
        """`names`: the data set's classes; `classes`: the study's."""
        self.names, self.classes = list(names), list(classes)
        self.pixels: dict[str, list[int]] = {}
        self.ignored: dict[str, int] = {}
        self.vanished: Counter[str] = Counter()
        self.only_here: Counter[str] = Counter()

    def add(self, name: str, label: np.ndarray, native: np.ndarray, small: np.ndarray) -> None:
        """Add one image's labels, all uint8 with 255 ignored: `label` (h, w) in the data set's ids, `native` (h, w) the
        same in train ids, `small` (H, W) resized to the training input."""
        own, before, after = (np.bincount(ids.ravel(), minlength=256) for ids in (label, native, small))
        self.pixels[name] = after[: len(self.classes)].tolist()
        self.ignored[name] = int(after[IGNORE])
        for index, entry in enumerate(self.classes):
            self.vanished[entry] += int(before[index] > 0 and after[index] == 0)
        for index, entry in enumerate(self.names):
            if entry not in self.classes:
                self.only_here[entry] += int(own[index])

    def result(self) -> dict[str, Any]:
        """`pixels`: image → pixels per class at the training input's size, in the order of `classes`; `ignored`:
        image → pixels of 255; `totals`: class → sum of `pixels`; `vanished`: class → number of images that lose all of
        its pixels when resized; `only_here`: class that the study lacks → native pixels that became 255."""
        totals = np.array(list(self.pixels.values()), dtype=np.int64).reshape(-1, len(self.classes)).sum(axis=0)
        return {
            "pixels": self.pixels,
            "ignored": self.ignored,
            "totals": dict(zip(self.classes, totals.tolist(), strict=True)),
            "vanished": {entry: count for entry, count in self.vanished.items() if count},
            "only_here": dict(self.only_here),
        }
