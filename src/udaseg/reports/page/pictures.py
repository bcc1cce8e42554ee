"""The images that the page compares: each panel of the qualitative grid as a small PNG of few colours."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from udaseg.reports.figures.qualitative import scenes, shrink
from udaseg.reports.read.report import Report

LARGEST = 480  # pixels of a panel's longer side, which keeps the page small
REFERENCES = ("image", "ground truth")  # titles of the panels that are no predictions


@dataclass(frozen=True)
class Panel:
    """One picture of a scene."""

    title: str  # of the row whose prediction it is, or one of REFERENCES
    predicted: bool
    uri: str  # the picture itself as a data URI


@dataclass(frozen=True)
class Compared:
    """One image with its ground truth and what was predicted for it, all shown at one size."""

    name: str
    width: int  # pixels of its predictions
    height: int
    panels: list[Panel]


def compared_images(report: Report) -> list[Compared]:
    """The images of the qualitative grid, predicted by the last weights of each row's first finished seed.

    Empty where no finished run kept predictions, as where all of them are read from records.
    """
    found = []
    for scene in scenes(report):
        panels = [Panel(title, title not in REFERENCES, png(pixels)) for title, pixels in scene.panels.items()]
        height, width = shrink(next(reversed(scene.panels.values())), LARGEST).shape[:2]
        found.append(Compared(scene.name, width, height, panels))
    return found


def png(pixels: np.ndarray) -> str:
    """A PNG with a palette as a data URI: exact for up to 256 colours, otherwise in the 256 that fit best.

    Args:
        pixels: (H, W, 3) uint8.
    """
    small = shrink(pixels, LARGEST)
    colours, index = np.unique(small.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        image = Image.fromarray(small).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    else:
        image = Image.fromarray(index.reshape(small.shape[:2]).astype(np.uint8), mode="P")
        image.putpalette(colours.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
