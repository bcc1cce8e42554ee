"""A user's own images and label maps in two folders, paired by stem (the file name without its suffix).

Faults of a whole split (no folder, no list, unusable names) are raised by `items`; those of a single file (no partner,
unreadable pixels, unknown ids) when that item is decoded, so that `prepare` can report all of them at once.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from udaseg.config.schema import UserPath, refuse_address
from udaseg.data.datasets.base import DatasetParams, Item, require_split, some
from udaseg.data.datasets.class_map import ClassMap
from udaseg.data.sets.images import read_image
from udaseg.errors import UserError
from udaseg.types import Split

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")  # formats that keep every id
NAME = re.compile(r"[A-Za-z0-9._-]+")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


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


class FolderDataset:
    """Images and label maps in folders; the module's docstring says which errors are raised when."""

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
        """The split's items, sorted by name. Without a list file, a label map that has no image is an item too, whose
        `image` raises. A split without a label folder is unlabelled if another split has one.

        Raises:
            UserError: no such split, image folder or list file, nothing in it, or unusable file names.
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
                f"split {split} of {self.root}: {len(wrong)} names with characters other than letters, digits, "
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
        """Stems of the split's label maps; unknown, hence empty, where all splits share one folder."""
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
        f"{' '.join(suffixes)}, or remove its partner"
    )


class FolderData(DatasetParams):
    """A user's own images and label maps in two folders."""

    kind: Literal["folder"]
    version: int = 1
    """Increase it when files below `root` have changed, so that the set is prepared again."""
    root: UserPath
    """Folder of the data; `${NAME}` and `${NAME:-default}` are taken from the environment."""
    images: UserPath = "{split}/images"
    """Folder of a split's images, relative to `root`."""
    labels: UserPath | None = "{split}/labels"
    """Folder of a split's label maps, relative to `root`. null: there are none; such a target is trained on, but not
    scored."""
    splits_present: list[Split] = Field(default=["train", "val", "test"])
    """The splits that there are; where `lists` is given, its splits count instead."""
    lists: dict[Split, UserPath] | None = None
    """For each split a text file of file stems, one a line, relative to `root`. null: all files of its folder."""
    encoding: Literal["id", "colour"] = "id"
    """Whether pixels of label maps are ids (grey levels or palette indices) or colours."""
    class_map: dict[str, str]
    """Raw id ("7") or colour ("#804080") → class name or "ignore"."""

    @model_validator(mode="after")
    def _root_is_a_folder(self) -> "FolderData":
        refuse_address("root", self.root)
        return self

    def splits(self) -> list[str]:
        return list(self.lists) if self.lists is not None else list(self.splits_present)

    def has_labels(self) -> bool:
        return self.labels is not None

    def open(self, unpacked: Path | None = None) -> FolderDataset:
        return FolderDataset(
            root=expand(self.root),
            images=self.images,
            labels=self.labels,
            lists=None if self.lists is None else {str(split): path for split, path in self.lists.items()},
            splits=self.splits(),
            class_map=ClassMap(self.class_map, self.encoding),
        )
