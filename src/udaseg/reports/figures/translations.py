"""The contact sheet of the translators: source images, their translations, and target images."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from udaseg.reports.figures.qualitative import shrink
from udaseg.reports.figures.style import STYLE, wrapped
from udaseg.reports.read.report import Report
from udaseg.runs.files import read_yaml
from udaseg.runs.folder import is_whole

TITLES = {"cyclegan": "CycleGAN", "lab": "LAB statistics", "fourier": "Fourier (FDA)", "identity": "no translation"}
CAPTION = (
    "What the translators make of some source images (first seed). LAB and Fourier take their look from the target "
    "image on the right, a CycleGAN from all of them."
)


def contact_sheet(report: Report) -> tuple[str, Figure] | None:
    """Caption, which names translations that are not finished, and figure; None where none is finished."""
    found = [(name, folder) for name, folder in report.translations if is_whole(folder)]
    if not found:
        return None
    missing = [f"{TITLES[name]} ({folder})" for name, folder in report.translations if (name, folder) not in found]
    caption = f"{CAPTION} Left out, since not finished or changed since: {', '.join(missing)}." if missing else CAPTION
    some = found[0][1]  # all show the same pairs
    columns = [(_title(report, found, index), folder, "translated") for index, (_, folder) in enumerate(found)]
    columns = [("source", some, "source"), *columns, ("target", some, "target")]
    rows = len(list(some.glob("source-*.png")))
    height, width = _picture(some / "source-0.png").shape[:2]
    panel = min(2.3, 9.2 / len(columns))
    titles = [wrapped(title, int(panel / 0.075)) for title, _, _ in columns]  # inches of a letter
    lines = 1 + max(title.count("\n") for title in titles)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(panel * len(columns), rows * (panel * height / width + 0.05) + 0.14 + 0.16 * lines))
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for column, (title, (_, folder, kind)) in enumerate(zip(titles, columns, strict=True)):
            grid[0, column].set_title(title, fontsize=8.5, fontweight="normal", pad=2.5)
            for row in range(rows):
                grid[row, column].imshow(_picture(folder / f"{kind}-{row}.png"), interpolation="bilinear")
                grid[row, column].set_axis_off()
    return caption, figure


def _title(report: Report, found: list[tuple[str, Path]], index: int) -> str:
    """A translator's name; where there are several of its kind, with the recipes that trained it or its share."""
    name, folder = found[index]
    if [other for other, _ in found].count(name) == 1:
        return TITLES[name]
    spec = read_yaml(folder / "spec.yaml")
    recipes = dict.fromkeys(run.row for run in report.runs if str(run.folder) == spec["run"])
    return f"{TITLES[name]}, {' / '.join(recipes) or spec['knobs'].get('fourier_share', folder.name)}"


def _picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as image:
        return shrink(np.asarray(image.convert("RGB")))
