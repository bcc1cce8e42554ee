"""Confusion matrices of the main table's rows: what the pixels of each class were predicted as."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.style import WIDTH, hide_rest, wrapped
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.table import of_planned

PANELS = 8  # more of them are too many to look at
COLUMNS = 2  # more side by side leave no room for the numbers
MARGIN = 1.75  # inches beside the panels: class names, colour bar
ROOM = 10  # points across that a cell needs before a number is written in it
CAPTION = (
    "Rows are classes of the ground truth, columns what their pixels were predicted as, in percent of the row; the "
    "diagonal is the recall. Pixels of all seeds together, last iteration. Numbers below 1 % are left out."
)


def confusion_figure(comparisons: Comparisons) -> tuple[str, Figure] | None:
    """Caption and figure: a panel for each row of the main table; None where no run is scored.

    Of more than PANELS rows baseline, oracle and those with the highest mean of the headline are shown, and the caption
    names the others, as it does those without a scored run. A row whose metric is another is shown if there is room.
    """
    report = comparisons.report
    matrices = {row: summed(row, len(report.classes)) for row in report.main}
    found = [row for row, matrix in matrices.items() if matrix.any()]
    if not found:
        return None

    def rank(row: Row) -> tuple[bool, float]:
        return row.headline != report.headline, -float(comparisons.scores(row.final).mean())

    bounds = [row for row in report.bounds if row in found]
    others = sorted((row for row in found if row not in bounds), key=rank)
    kept = {*bounds, *others[: PANELS - len(bounds)]}
    shown = {row: matrices[row] for row in found if row in kept}
    sentences = [CAPTION]
    if any((matrix.sum(axis=1) == 0).any() for matrix in shown.values()):
        sentences.append("Hatched: no pixel in the ground truth.")
    chosen = f"Of {len(found)} rows those with the highest mean {report.headline}, baseline and oracle; left out"
    for reason, left in ((chosen, set(found) - kept), ("Without a scored run", set(matrices) - set(found))):
        if left:
            sentences.append(f"{reason}: {'; '.join(row.scored_title for row in report.main if row in left)}.")
    return " ".join(sentences), _draw(report.classes, shown)


def summed(row: Row, classes: int) -> np.ndarray:
    """(C, C) int64 pixels, truth by prediction, of the last weights of all scored seeds of a row; 0 without any."""
    found = [run.metrics["scores"]["last"]["confusion"] for run in row.final.runs if run.metrics]
    return np.sum([np.zeros((classes, classes), dtype=np.int64), *map(np.array, found)], axis=0)


def _draw(classes: list[str], matrices: dict[Row, np.ndarray]) -> Figure:
    count, columns = len(classes), min(COLUMNS, len(matrices))
    side = (WIDTH - MARGIN) / COLUMNS  # of a panel, in inches
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(MARGIN + columns * side, rows * (side + 1.15)))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    names = [name.replace("_", " ") for name in classes]
    for axes, (row, matrix) in zip(panels.flat, matrices.items(), strict=False):
        shares = percent(matrix)
        mesh = axes.pcolormesh(np.ma.masked_invalid(shares), cmap="magma_r", vmin=0, vmax=100, linewidth=0)
        if (cell := 72 * side / count) >= ROOM:
            _write(axes, shares, min(7.5, 0.47 * cell))
        for line in np.flatnonzero(np.isnan(shares).all(axis=1)):
            axes.axhspan(line, line + 1, facecolor="#f2f2f2", edgecolor="#bdbdbd", hatch="/////", linewidth=0)
        axes.set_xticks(np.arange(count) + 0.5, names, rotation=90, fontsize=7)
        axes.set_yticks(np.arange(count) + 0.5, names, fontsize=7)
        axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
        axes.tick_params(length=0, pad=2)
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        seeds = of_planned(sum(bool(run.metrics) for run in row.final.runs), row.final.planned)
        axes.set_title(wrapped(row.scored_title + seeds, 34), fontsize=8.5)
    hide_rest(panels, len(matrices))
    bar = figure.colorbar(mesh, ax=panels, fraction=0.04, aspect=35, pad=0.015)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("Share of the class's pixels (%)", fontsize=8)
    figure.supxlabel("Predicted", fontsize=9)
    figure.supylabel("Ground truth", fontsize=9)
    return figure


def _write(axes: Axes, shares: np.ndarray, size: float) -> None:
    """The numbers of at least 1 %, in a colour that shows on that of their cell."""
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 1), strict=True):
        share = shares[row, column]
        axes.text(
            column + 0.5,
            row + 0.52,
            f"{share:.0f}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share > 45 else "black",
            in_layout=False,
        )


def percent(matrix: np.ndarray) -> np.ndarray:
    """A confusion matrix (C, C) in percent of its rows, NaN in the rows of classes without a pixel."""
    totals = matrix.sum(axis=1, keepdims=True)
    return np.divide(100 * matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
