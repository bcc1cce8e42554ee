"""The page's comparison of images: each panel of the qualitative grid as a small PNG of few colours."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from udaseg.data.datasets.classes import palette
from udaseg.reports.figures.qualitative import scenes
from udaseg.reports.read.report import Report

LARGEST = 480  # pixels of a panel's longer side, which keeps the page small
REFERENCES = ("image", "ground truth")  # titles of the panels that are no predictions


@dataclass(frozen=True)
class Panel:
    """One picture of a comparison."""

    title: str  # of the row whose prediction it is, or one of REFERENCES
    predicted: bool
    uri: str  # the picture itself as a data URI


@dataclass(frozen=True)
class Comparison:
    """One image with its ground truth and what was predicted for it, all shown at one size."""

    name: str
    width: int  # pixels of its predictions
    height: int
    panels: list[Panel]


def comparisons(report: Report) -> list[Comparison]:
    """The images of the qualitative grid, predicted by the last weights of each row's first finished seed.

    Empty where no finished run kept predictions, as where all of them are read from records.
    """
    found = []
    for scene in scenes(report):
        panels = [Panel(title, title not in REFERENCES, png(pixels)) for title, pixels in scene.panels.items()]
        height, width = shrunk(next(reversed(scene.panels.values()))).shape[:2]
        found.append(Comparison(scene.name, width, height, panels))
    return found


def legend(report: Report) -> list[tuple[str, str]]:
    """The classes and their colours, "#rrggbb", with what is ignored last."""
    names = [*(name.replace("_", " ") for name in report.classes), "ignored"]
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in [*palette(report.classes), (0, 0, 0)]]
    return list(zip(names, colours, strict=True))


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """`pixels` (H, W, 3) with every n-th row and column, so that the longer side is at most LARGEST."""
    step = -(-max(pixels.shape[:2]) // LARGEST)
    return pixels[::step, ::step]


def png(pixels: np.ndarray) -> str:
    """A PNG with a palette as a data URI: exact for up to 256 colours, otherwise in the 256 that fit best.

    Args:
        pixels: (H, W, 3) uint8.
    """
    small = shrunk(pixels)
    colours, index = np.unique(small.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        image = Image.fromarray(small).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    else:
        image = Image.fromarray(index.reshape(small.shape[:2]).astype(np.uint8), mode="P")
        image.putpalette(colours.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
