"""Class names and colours, in the order and with the colours that their authors published."""

import colorsys
import hashlib
from collections.abc import Sequence

import numpy as np

from udaseg.types import IGNORE

RGB = tuple[int, int, int]

CITYSCAPES: dict[str, RGB] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic_light": (250, 170, 30),
    "traffic_sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

# The 11 classes that SegNet grouped CamVid's 32 into, with CamVid's colours.
CAMVID: dict[str, RGB] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


def palette(names: Sequence[str]) -> list[RGB]:
    """One colour per class name.

    The published palette that has more of the names takes precedence (Cityscapes on a tie) over the other one. Names in
    neither, or whose colour another name has taken, get a colour derived from the name, which does not depend on the
    order in which a study lists its classes.
    """
    cityscapes_first = sum(n in CITYSCAPES for n in names) >= sum(n in CAMVID for n in names)
    first, second = (CITYSCAPES, CAMVID) if cityscapes_first else (CAMVID, CITYSCAPES)
    published = {name: first.get(name) or second.get(name) for name in names}
    taken = {colour for colour in published.values() if colour}
    colours: list[RGB] = []
    used: set[RGB] = set()
    for name in names:
        colour = published[name]
        if colour is None or colour in used:
            colour = _derived_colour(name, used | taken)
        used.add(colour)
        colours.append(colour)
    return colours


def _derived_colour(name: str, taken: set[RGB]) -> RGB:
    """The first colour in a sequence hashed from `name` that is far from all of `taken`, or else the farthest one."""
    candidates: list[RGB] = []
    for attempt in range(64):
        digest = hashlib.sha256(f"{name}/{attempt}".encode()).digest()
        hue, saturation, value = digest[0] / 255, 0.45 + 0.55 * digest[1] / 255, 0.5 + 0.5 * digest[2] / 255
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        candidates.append((round(255 * red), round(255 * green), round(255 * blue)))

    def distance(colour: RGB) -> int:
        return min((sum(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in taken), default=765)

    return next((c for c in candidates if distance(c) >= 120), max(candidates, key=distance))


def colourise(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Labels (H, W) uint8, index in `names` or IGNORE → picture (H, W, 3) uint8; ignored pixels are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(names)] = np.array(palette(names), dtype=np.uint8).reshape(-1, 3)
    table[IGNORE] = 0
    return table[labels]
