"""The contact sheet of the translators: source images, what each translator makes of them, and target images."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from udaseg.reports.study import Report
from udaseg.reports.style import STYLE
from udaseg.runs import is_whole

TITLES = {"cyclegan": "CycleGAN", "lab": "LAB statistics", "fourier": "Fourier (FDA)", "identity": "no translation"}
CAPTION = (
    "What the translators make of some source images (first seed). LAB and Fourier took their look from the target "
    "image on the right, the CycleGAN from all of them."
)


def contact_sheet(report: Report) -> tuple[str, Figure] | None:
    """Caption and figure; None where no translation is finished."""
    found = {name: folder for name, folder in report.translations if is_whole(folder)}
    if not found:
        return None
    some = next(iter(found.values()))
    columns = [("source", some, "source"), *((TITLES[name], folder, "translated") for name, folder in found.items())]
    columns.append(("target", some, "target"))
    rows = len(list(some.glob("source-*.png")))
    height, width = _picture(some / "source-0.png").shape[:2]
    panel = min(2.3, 9.2 / len(columns))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(panel * len(columns), rows * (panel * height / width + 0.05) + 0.3))
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for column, (title, folder, kind) in enumerate(columns):
            grid[0, column].set_title(title, fontsize=8.5, fontweight="normal", pad=2.5)
            for row in range(rows):
                grid[row, column].imshow(_picture(folder / f"{kind}-{row}.png"), interpolation="bilinear")
                grid[row, column].set_axis_off()
    return CAPTION, figure


def _picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
