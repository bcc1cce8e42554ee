"""The figures of a report in their order, with captions."""

import matplotlib
from matplotlib.figure import Figure

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.confusion import confusion_figure
from udaseg.reports.figures.cost import cost_figure
from udaseg.reports.figures.curves import diagnostics, losses, monitor
from udaseg.reports.figures.pseudo_labels import pseudo_labels
from udaseg.reports.figures.scores import class_bars, miou
from udaseg.reports.figures.stages import stage_lines
from udaseg.reports.figures.style import STYLE
from udaseg.reports.figures.sweeps import ablation_figures
from udaseg.reports.read.history import history_frame

MIOU = "Each seed (small) and the mean (large) on the reported split, last iteration."
STAGES = "What each stage reaches on the reported split, last iteration: mean, and the range over seeds."
PSEUDO_LABELS = (
    "The pseudo-labels that each stage was trained on: mean, and the range over seeds. Coverage: pixels that were "
    "given this label / all pixels (beyond 0.1 % the axis is logarithmic; the black bar is the class's share in the "
    "ground truth). Precision: right pixels / pixels with this label. Recall: right pixels / pixels of this class. "
    "Precision and recall use the training images' ground truth, which no training sees."
)
CLASSES = "IoU per class, mean over seeds, last iteration."
MONITOR = (
    "Score on the monitored split during the final stage: mean, and the range over seeds. It steers nothing. Behind "
    "it, in grey, all others."
)
LOSSES = (
    "Loss terms during training, unweighted: mean, and the range over seeds. A stage that several recipes share is "
    "drawn once. The axis is logarithmic where the terms lie far apart."
)
DIAGNOSTICS = "What the methods log beside their losses: mean and range over seeds."


def all_figures(comparisons: Comparisons) -> dict[str, tuple[str, Figure]]:
    """Name → (caption, figure), in the report's order. A figure for which no run has numbers is left out."""
    report = comparisons.report
    history = history_frame(report)
    with matplotlib.rc_context(STYLE):
        figures = {
            "miou": _captioned(MIOU, miou(comparisons)),
            "stages": _captioned(STAGES, stage_lines(comparisons)),
            "pseudo_labels": _captioned(PSEUDO_LABELS, pseudo_labels(report)),
            "classes": _captioned(CLASSES, class_bars(report)),
            **ablation_figures(comparisons),
            "confusion": confusion_figure(comparisons),
            "cost": cost_figure(comparisons),
            "monitor": _captioned(MONITOR, monitor(report, history)),
            "losses": _captioned(LOSSES, losses(report, history)),
            "diagnostics": _captioned(DIAGNOSTICS, diagnostics(report, history)),
        }
    return {name: drawn for name, drawn in figures.items() if drawn is not None}


def _captioned(caption: str, figure: Figure | None) -> tuple[str, Figure] | None:
    return None if figure is None else (caption, figure)
