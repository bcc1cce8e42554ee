"""From the ids or colours that a label map stores to a data set's classes."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from udaseg.data.datasets.base import some
from udaseg.data.sets.images import read_colours, read_ids
from udaseg.errors import UserError
from udaseg.types import IGNORE


class ClassMap:
    """Raw ids or colours → index in `names`, the classes in the order in which the map first names them."""

    def __init__(self, entries: Mapping[str, str], encoding: str) -> None:
        self.encoding = encoding
        self.names = tuple(dict.fromkeys(name for name in entries.values() if name != "ignore"))
        if not 0 < len(self.names) < IGNORE:
            raise UserError(f"class_map: names {len(self.names)} classes, expected 1 to {IGNORE - 1}")
        keys: dict[int, int] = {}
        for raw, name in entries.items():
            key = self._parse(raw)
            if key in keys:
                raise UserError(f"class_map: '{raw}' is the same id or colour as an earlier entry; keep one")
            keys[key] = IGNORE if name == "ignore" else self.names.index(name)
        self.keys = np.array(sorted(keys), dtype=np.int64)
        self.values = np.array([keys[key] for key in sorted(keys)], dtype=np.uint8)
        self.known = np.zeros(2**16, dtype=bool)  # used for ids only; colours are looked up in the sorted keys
        self.table = np.zeros(2**16, dtype=np.uint8)
        if encoding == "id":
            self.known[self.keys] = True
            self.table[self.keys] = self.values

    def _parse(self, raw: str) -> int:
        if self.encoding == "id" and re.fullmatch(r"[0-9]{1,5}", raw) and int(raw) < 2**16:
            return int(raw)
        if self.encoding == "colour" and re.fullmatch(r"#[0-9A-Fa-f]{6}", raw):
            return int(raw[1:], 16)
        wanted = 'an id from "0" to "65535"' if self.encoding == "id" else 'a colour such as "#804080"'
        raise UserError(f"class_map: '{raw}' is not {wanted}, as encoding: {self.encoding} expects")

    def read(self, path: Path) -> np.ndarray:
        """The label file as (H, W) uint8, index in `names` or 255.

        Raises:
            UserError: unreadable, or with ids or colours that the map does not have; the first few are named.
        """
        if self.encoding == "id":
            raw = read_ids(path)
            inside = (raw >= 0) & (raw < 2**16)
            index = np.where(inside, raw, 0)
            known, labels = self.known[index] & inside, self.table[index]
        else:
            raw = read_colours(path)
            position = np.minimum(np.searchsorted(self.keys, raw), len(self.keys) - 1)
            known, labels = self.keys[position] == raw, self.values[position]
        if not known.all():
            values, counts = np.unique(raw[~known], return_counts=True)
            found = [
                f"{value if self.encoding == 'id' else f'#{value:06x}'} ({count} pixels)"
                for value, count in zip(values.tolist(), counts.tolist(), strict=True)
            ]
            raise UserError(
                f"label map {path}: {self.encoding} {some(found)} not in class_map; "
                "add each to class_map with its class or with 'ignore'"
            )
        return labels
