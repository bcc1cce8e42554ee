"""The qualitative grid: image, ground truth and every method's prediction side by side, for the first few images."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from udaseg.data.datasets.classes import colourise, palette
from udaseg.reports.figures.style import STYLE, hide_rest, wrapped
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row, Run

COLUMNS = 4  # panels in a line; more of them become too small to see a person
LINES = 12  # of panels in the grid; with more of them fewer images are shown
LARGEST = 640  # pixels of a panel's longer side


@dataclass(frozen=True)
class Scene:
    """One image and what was predicted for it; all panels (H, W, 3) uint8, title → panel in display order."""

    name: str
    panels: dict[str, np.ndarray]


def scenes(report: Report, count: int = 3) -> list[Scene]:
    """The first `count` reported images with the predictions of each method's first finished seed.

    The order is image, ground truth, baseline, the methods, oracle.
    """
    place = {report.baseline: -1, report.oracle: 1}
    order = sorted(report.main, key=lambda row: place.get(row.name, 0))
    shown = {row: run for row in order if (run := _first(row))}
    folders = {row: run.evaluated_at / "pictures" for row, run in shown.items() if run.evaluated_at is not None}
    if not folders:
        return []
    names = sorted(set.intersection(*({path.stem for path in folder.glob("*.png")} for folder in folders.values())))
    split = next(iter(shown.values())).metrics["protocol"]["split"]
    prepared = report.data["target"] / split
    found = []
    for name in names[:count]:
        panels = {"image": _image(prepared / "images" / f"{name}.png")} if _is_file(prepared, "images", name) else {}
        if _is_file(prepared, "native", name):
            panels["ground truth"] = colourise(_labels(prepared / "native" / f"{name}.png"), report.classes)
        for row, folder in folders.items():
            panels[row.scored_title] = colourise(_labels(folder / f"{name}.png"), report.classes)
        found.append(Scene(name, panels))
    return found


def qualitative(report: Report, count: int = 3) -> tuple[str, Figure] | None:
    """Caption and figure of the grid; None where no finished run kept predictions."""
    found = scenes(report, count)
    if not found:
        return None
    lines = -(-len(found[0].panels) // COLUMNS)
    found = found[: max(1, LINES // lines)]
    columns = min(COLUMNS, len(found[0].panels))
    height, width = next(reversed(found[0].panels.values())).shape[:2]
    panel = 2.3
    with matplotlib.rc_context(STYLE):
        legend_lines = -(-(len(report.classes) + 1) // 6)
        tall = len(found) * lines * (panel * height / width + 0.26) + 0.22 * legend_lines + 0.15
        figure = Figure(figsize=(panel * columns, tall))
        grid = figure.subplots(len(found) * lines, columns, squeeze=False)
        for row, scene in enumerate(found):
            block = grid[row * lines : (row + 1) * lines]
            for axes, (title, pixels) in zip(block.flat, scene.panels.items(), strict=False):
                axes.imshow(
                    pixels, extent=(0, width, height, 0), interpolation="nearest" if title != "image" else "bilinear"
                )
                axes.set_title(wrapped(title, 34), fontsize=8.5, fontweight="normal", pad=2.5)
                axes.set_axis_off()
            hide_rest(block, len(scene.panels))
        colours = class_colours(report.classes)
        patches = [Patch(facecolor=colour, edgecolor="#555555", linewidth=0.4) for colour in colours.values()]
        figure.legend(patches, colours.keys(), loc="outside lower center", ncols=6, handlelength=1.2, columnspacing=1.4)
    shown = [run.seed for row in report.main if (run := _first(row))]
    seeds = f"seed {shown[0]}" if len(set(shown)) == 1 else "each method's first finished seed"
    caption = (
        f"The first {len(found)} images of the reported split ({', '.join(scene.name for scene in found)}), {seeds}."
    )
    without = [row.scored_title for row in report.main if _first(row) is None]
    return caption + (f" Without pictures: {'; '.join(without)}." if without else ""), figure


def class_colours(classes: list[str]) -> dict[str, str]:
    """Display names of the classes and their colours, "#rrggbb"; ignored pixels come last."""
    names = [*(name.replace("_", " ") for name in classes), "ignored"]
    colours = [*palette(classes), (0, 0, 0)]
    return {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in zip(names, colours, strict=True)}


def shrink(pixels: np.ndarray, longest: int = LARGEST) -> np.ndarray:
    """`pixels` (H, W) or (H, W, 3) without interpolation, its longer side at most `longest`."""
    step = -(-max(pixels.shape[:2]) // longest)
    return pixels[::step, ::step]


def _first(row: Row) -> Run | None:
    """The first finished run of a row that kept its predictions; records do not have them."""
    runs = row.final.runs
    return next((run for run in runs if run.evaluated_at and any((run.evaluated_at / "pictures").glob("*.png"))), None)


def _is_file(prepared: Path, kind: str, name: str) -> bool:
    return (prepared / kind / f"{name}.png").is_file()


def _image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as image:
        return shrink(np.asarray(image.convert("RGB")))


def _labels(path: Path) -> np.ndarray:
    """(H, W) uint8."""
    with Image.open(path) as image:
        return shrink(np.asarray(image))
