"""A user's own images and label maps in two folders, paired by stem (the file name without its suffix).

What a whole split lacks (a folder, a list, usable names) is raised by `items`; what a single file lacks (its partner,
readable pixels, known ids) is raised when that item is decoded, so that `prepare` can report every such file at once.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udaseg.data.datasets.base import Item, require_split
from udaseg.data.sets.images import read_colours, read_ids, read_image
from udaseg.errors import UserError
from udaseg.types import IGNORE

if TYPE_CHECKING:
    from udaseg.config.schema import FolderData

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")  # formats that keep every id
NAME = re.compile(r"[A-Za-z0-9._-]+")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
SHOWN = 5  # names in a message that could name thousands


def open_folder(spec: "FolderData") -> "FolderDataset":
    """The data set of a `folder` spec. Raises UserError when root or class map cannot be used."""
    return FolderDataset(
        root=expand(spec.root),
        images=spec.images,
        labels=spec.labels,
        lists=None if spec.lists is None else {str(split): path for split, path in spec.lists.items()},
        splits=spec.splits(),
        class_map=ClassMap(spec.class_map, spec.encoding),
    )


def expand(root: str) -> Path:
    """`root` with `${NAME}` and `${NAME:-default}` taken from the environment; relative to the current folder."""

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            raise UserError(
                f"root: '{root}': the environment variable {name} is not set; set it, or write ${{{name}:-path}} for a "
                "default"
            )
        return found

    return Path(VARIABLE.sub(value, root)).expanduser()


def some(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class ClassMap:
    """Raw ids or colours → index in `names`, the classes in the order in which the map first mentions them."""

    def __init__(self, entries: Mapping[str, str], encoding: str) -> None:
        self.encoding = encoding
        self.names = tuple(dict.fromkeys(name for name in entries.values() if name != "ignore"))
        if not 0 < len(self.names) < IGNORE:
            raise UserError(f"class_map: names {len(self.names)} classes, expected 1 to {IGNORE - 1}")
        keys: dict[int, int] = {}
        for raw, name in entries.items():
            key = self._parse(raw)
            if key in keys:
                raise UserError(f"class_map: '{raw}' stands for an id or colour that an earlier entry has; keep one")
            keys[key] = IGNORE if name == "ignore" else self.names.index(name)
        self.keys = np.array(sorted(keys), dtype=np.int64)
        self.values = np.array([keys[key] for key in sorted(keys)], dtype=np.uint8)
        self.known = np.zeros(2**16, dtype=bool)  # of ids; colours are searched for among the sorted keys
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


class FolderDataset:
    """Images and label maps in folders; see the module's docstring for what is raised when."""

    def __init__(
        self,
        root: Path,
        images: str,
        labels: str | None,
        lists: Mapping[str, str] | None,
        splits: Sequence[str],
        class_map: ClassMap,
    ) -> None:
        """`images` and `labels` are folders relative to `root` and may contain `{split}`."""
        if not root.is_dir():
            raise UserError(f"root: there is no folder {root} (looked for as {root.resolve()}); correct it")
        if lists is None and "{split}" not in images:
            raise UserError(f"images: '{images}' is the same for every split; put {{split}} into it, or give lists")
        self.root, self.images, self.labels, self.lists = root, images, labels, lists
        self.splits = list(splits)
        self.class_map = class_map
        self.names = class_map.names

    def items(self, split: str) -> list[Item]:
        """The split's items, sorted by name. Without a list file, a label map without image is an item as well, whose
        `image` raises. A split whose label folder does not exist is unlabelled as long as another split has one.

        Raises:
            UserError: no such split, no image folder, no list file, nothing in it, or names that cannot be used.
        """
        require_split(split, self.splits, f"the data set {self.root}")
        image_files = self._files(self.images, split, "images", IMAGE_SUFFIXES)
        label_files = self._label_files(split)
        if self.lists is None:
            where, names = self._folder(self.images, split), sorted(image_files.keys() | self._own(label_files))
        else:
            where, names = self.root / self.lists[split], _listed(self.root / self.lists[split])
        if not names:
            raise UserError(f"split {split}: no images in {where}; formats read: {' '.join(IMAGE_SUFFIXES)}")
        if image_files and label_files and not image_files.keys() & label_files.keys():
            raise UserError(
                f"split {split} of {self.root}: no image has a label map of the same stem; images are named like "
                f"{min(image_files.values())}, label maps like {min(label_files.values())}: rename one of them"
            )
        wrong = [name for name in names if not NAME.fullmatch(name)]
        if wrong:
            raise UserError(
                f"split {split} of {self.root}: {len(wrong)} names with other characters than letters, digits, "
                f"'.', '_' and '-': {some(wrong)}; rename the files"
            )
        return [self._item(name, split, image_files, label_files) for name in names]

    def _item(self, name: str, split: str, images: dict[str, Path], labels: dict[str, Path] | None) -> Item:
        image: Callable[[], np.ndarray]
        label: Callable[[], np.ndarray] | None = None
        if name in images:
            image = partial(read_image, images[name])
        else:
            image = partial(_missing, "image", self._folder(self.images, split) / name)
        if labels is not None and name in labels:
            label = partial(self.class_map.read, labels[name])
        elif labels is not None and self.labels is not None:
            label = partial(_missing, "label map", self._folder(self.labels, split) / name)
        return Item(name, image, label)

    def _folder(self, pattern: str, split: str) -> Path:
        return self.root / pattern.replace("{split}", split)

    def _own(self, label_files: dict[str, Path] | None) -> set[str]:
        """Stems of the label maps that belong to the split; one folder for all splits does not say which those are."""
        return set(label_files) if label_files and self.labels and "{split}" in self.labels else set()

    def _label_files(self, split: str) -> dict[str, Path] | None:
        if self.labels is None:
            return None
        there = [other for other in self.splits if self._folder(self.labels, other).is_dir()]
        if there and split not in there:
            return None
        return self._files(self.labels, split, "labels", LABEL_SUFFIXES)

    def _files(self, pattern: str, split: str, key: str, suffixes: Sequence[str]) -> dict[str, Path]:
        """Stem → file of the folder that `pattern` names."""
        folder = self._folder(pattern, split)
        if not folder.is_dir():
            hint = "; for images without labels set labels: null" if key == "labels" else ""
            raise UserError(
                f"{key}: there is no folder {folder} for split {split}; correct '{pattern}' or the split{hint}"
            )
        files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in suffixes and not path.name.startswith("."):
                if path.stem in files:
                    raise UserError(f"{key}: {files[path.stem]} and {path.name} have the same stem; keep one of them")
                files[path.stem] = path
        return files


def _listed(path: Path) -> list[str]:
    """The stems in a list file, one a line, sorted."""
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lists: {path} cannot be read ({error}); expected a text file of one stem a line") from None
    counts = Counter(line.strip() for line in lines if line.strip())
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UserError(f"lists: {path} names {some(twice)} more than once; keep each once")
    return sorted(counts)


def _missing(what: str, path: Path) -> np.ndarray:
    partner, suffixes = ("label map", IMAGE_SUFFIXES) if what == "image" else ("image", LABEL_SUFFIXES)
    raise UserError(
        f"{what} {path}.*: missing, so the {partner} '{path.name}' has no partner of the same stem; add it as one of "
        f"{' '.join(suffixes)}, or take its partner away"
    )
