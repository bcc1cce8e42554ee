"""What it costs to hold every file that is read against the digest of its pixels: seconds of the processor an image.

    python benchmarks/checked_reading.py [--size 512 1024] [--images 8]

The images are rendered ones with the target's noise, which compress about as badly as photographs do.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from udaseg.data.datasets.toytown import ToytownData
from udaseg.data.sets.images import read_ids, read_image
from udaseg.data.sets.prepare import prepare
from udaseg.data.sets.read import PreparedSet
from udaseg.validation import validate

CLASSES = ["road", "building", "sky", "car"]


def rendered(folder: Path, size: tuple[int, int], images: int) -> PreparedSet:
    content = {"kind": "toytown", "domain": "target", "world": 1, "size": list(size), "counts": {"train": images}}
    spec = validate(ToytownData, content)
    prepare("toytown", spec.open(), content, CLASSES, size, folder / "set")
    return PreparedSet(folder / "set")


def checked(prepared: PreparedSet, name: str) -> None:
    prepared.image("train", name)
    prepared.label("train", name)


def unchecked(prepared: PreparedSet, name: str) -> None:
    read_image(prepared.folder / "train" / "images" / f"{name}.png")
    read_ids(prepared.folder / "train" / "labels" / f"{name}.png")


def seconds(read: Callable[[PreparedSet, str], None], prepared: PreparedSet, repeats: int = 5) -> float:
    """Of the processor, an image with its label; the fastest of some passes over the set."""
    names = prepared.names("train")
    read(prepared, names[0])  # opens what is opened once
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for name in names:
            read(prepared, name)
        times.append((time.process_time() - start) / len(names))
    return min(times)


def table(size: tuple[int, int], images: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        prepared = rendered(Path(folder), size, images)
        plain, held = seconds(unchecked, prepared), seconds(checked, prepared)
    lines = [
        f"### an image and its label of {size[0]} x {size[1]}",
        "",
        "| reading | ms | ratio |",
        "|---|---:|---:|",
        f"| as it is | {1000 * plain:.2f} | 1.00 |",
        f"| held against its digest | {1000 * held:.2f} | {held / plain:.2f} |",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[512, 1024], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    print(table(tuple(options.size), options.images))


if __name__ == "__main__":
    main()
