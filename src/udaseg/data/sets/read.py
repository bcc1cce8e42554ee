"""Reading a prepared set: the folder that `udaseg.data.sets.build` writes and that training and evaluation read."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from udaseg.data.sets.images import read_ids, read_image
from udaseg.errors import UserError
from udaseg.runs.files import read_json, sha256

EVALUATED = ("val", "test")  # splits whose labels are also kept at native size
DIGESTS, STATISTICS = "digests.json", "statistics.json"
SHOWN = 20  # problems listed in a message; the others are only counted


def digest(pixels: np.ndarray) -> str:
    """SHA-256 of the pixels of an image or label map: a file's bytes depend on the compression library's version."""
    state = hashlib.sha256(f"{pixels.shape}\n".encode())
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


def fingerprint_of(classes: Sequence[str], digests: Mapping[str, str]) -> str:
    """The fingerprint of a set's content. `digests`: path in the set → digest of the file there."""
    listing = "".join(f"{path} {found}\n" for path, found in sorted(digests.items()))
    return hashlib.sha256(f"{' '.join(classes)}\n{listing}".encode()).hexdigest()


class PreparedSet:
    """One prepared data set. Labels are train ids: index in `classes`, or 255.

    Everything read is compared with the digests that `prepare` recorded: a file that is missing or has changed since
    raises a UserError that names it.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError when `folder` is not a complete prepared set."""
        if not (folder / "set.json").is_file():
            raise UserError(
                f"{folder}: not a prepared data set (no set.json in it); run the prepare step that makes it"
            )
        content = read_json(folder / "set.json")
        self.folder = folder
        self.name: str = content["name"]
        self.spec: dict[str, Any] = content["spec"]
        self.size: tuple[int, int] = (content["size"][0], content["size"][1])  # of training inputs: height, width
        self.classes: tuple[str, ...] = tuple(content["classes"])
        self.only_here: tuple[str, ...] = tuple(content["only_here"])  # the data set's classes that the study ignores
        self.fingerprint: str = content["fingerprint"]
        self._splits: dict[str, dict[str, dict[str, Any]]] = {
            split: {entry["name"]: entry for entry in content["splits"][split]}
            for split in ("train", *EVALUATED)
            if split in content["splits"]
        }

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def names(self, split: str) -> list[str]:
        """The names of the split's images, sorted. Raises UserError when the set has no such split."""
        return list(self._entries(split))

    def labelled(self, split: str) -> bool:
        """Whether every image of the split has labels."""
        return all(entry["labelled"] for entry in self._entries(split).values())

    def has_label(self, split: str, name: str) -> bool:
        """Whether this image has labels."""
        return bool(self._entry(split, name)["labelled"])

    def image(self, split: str, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB at the training input's size."""
        return self._read(split, "images", name)

    def label(self, split: str, name: str) -> np.ndarray:
        """(H, W) uint8 train ids at the training input's size. Raises UserError when the image has no labels."""
        self._require_label(split, name)
        return self._read(split, "labels", name)

    def native_label(self, split: str, name: str) -> np.ndarray:
        """(h, w) uint8 train ids at the size in which the image was published: what scores are computed on.

        Raises:
            UserError: the image has no labels, or the split is train, whose native labels are not kept.
        """
        if split not in EVALUATED:
            raise UserError(f"split {split} of set {self.name} is not for evaluation: only {', '.join(EVALUATED)} are")
        self._require_label(split, name)
        return self._read(split, "native", name)

    def statistics(self) -> dict[str, Any]:
        """The content of statistics.json; for every split what `SplitStatistics.result` says."""
        with self._advised():
            self._require_statistics()
        content: dict[str, Any] = read_json(self.folder / STATISTICS)
        return content

    def verify(self) -> None:
        """Read all files. Raises UserError, naming those that are missing or not as `prepare` wrote them."""
        problems = []
        for path in self._digests:
            try:
                self._require_statistics() if path == STATISTICS else self._pixels(path)
            except UserError as error:
                problems.append(str(error))
        if problems:
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            listing = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
            with self._advised():
                raise UserError(f"set {self.name}: {len(problems)} files are not as prepared{listing}{more}")

    def _entries(self, split: str) -> dict[str, dict[str, Any]]:
        if split not in self._splits:
            raise UserError(f"set {self.name} has no split {split}; it has {', '.join(self._splits)}")
        return self._splits[split]

    def _entry(self, split: str, name: str) -> dict[str, Any]:
        entries = self._entries(split)
        if name not in entries:
            raise UserError(f"split {split} of set {self.name} has no image '{name}'")
        return entries[name]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Path in the set → digest, for all files that anything is computed from."""
        found: dict[str, str] = read_json(self.folder / DIGESTS)
        if fingerprint_of(self.classes, found) != self.fingerprint or found.keys() != {STATISTICS, *self._files()}:
            raise UserError(f"{self.folder}: {DIGESTS} and set.json do not match")
        return found

    def _files(self) -> Iterator[str]:
        for split, entries in self._splits.items():
            for name, entry in entries.items():
                kinds = ["images"] + (["labels"] if entry["labelled"] else [])
                kinds += ["native"] if entry["labelled"] and split in EVALUATED else []
                yield from (f"{split}/{kind}/{name}.png" for kind in kinds)

    def _read(self, split: str, kind: str, name: str) -> np.ndarray:
        self._entry(split, name)
        with self._advised():
            return self._pixels(f"{split}/{kind}/{name}.png")

    def _pixels(self, path: str) -> np.ndarray:
        pixels = (read_image if "/images/" in path else read_ids)(self.folder / path)
        self._compare(path, digest(pixels))
        return pixels

    def _require_statistics(self) -> None:
        try:
            self._compare(STATISTICS, sha256(self.folder / STATISTICS))
        except OSError as error:
            raise UserError(f"{self.folder / STATISTICS}: {error.strerror}") from None

    def _compare(self, path: str, found: str) -> None:
        if found != self._digests[path]:
            raise UserError(f"{self.folder / path}: changed after the set was prepared: its digest is not in {DIGESTS}")

    @contextmanager
    def _advised(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(
                f"{error}. Restore the files, or remove the folder {self.folder} and run the same command again, which "
                "prepares the set anew"
            ) from None

    def _require_label(self, split: str, name: str) -> None:
        if not self.has_label(split, name):
            raise UserError(
                f"split {split} of set {self.name} has no labels: '{name}' can neither supervise nor score; "
                "take a split with labels, or give the data set a labels folder"
            )
