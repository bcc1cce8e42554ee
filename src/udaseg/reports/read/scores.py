"""The scores of a study as one tidy frame, from which tables and figures select."""

from collections.abc import Iterable, Sequence

import pandas as pd

from udaseg.reports.read.rows import Row, number

COLUMNS = ["row", "stage", "seed", "final", "checkpoint", "kind", "name", "score", "truth"]


def score_frame(rows: Iterable[Row], class_sets: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """One line for each score of each evaluated run: a fraction, NaN where it is undefined.

    `checkpoint` is "last" or "best". `kind` tells what `name` is: a class set ("set"), scored by the metric of its row;
    a class ("class"), with its pixels in the ground truth as `truth`; or a number of the checkpoint ("checkpoint"):
    pixel_accuracy, monitor, or iteration, which is no fraction.
    """
    lines = []
    for row in rows:
        for run in (run for stage in row.stages.values() for run in stage.runs):
            for checkpoint, score in run.metrics.get("scores", {}).items():
                if score is None:
                    continue
                who = (row.name, run.stage, run.seed, run.final, checkpoint)
                lines += [(*who, "set", name, number(score["sets"].get(row.metric(name))), 0) for name in class_sets]
                pixels = zip(classes, map(sum, score["confusion"]), strict=True)
                lines += [(*who, "class", name, number(score["iou"][name]), truth) for name, truth in pixels]
                facts = ("pixel_accuracy", "monitor", "iteration")
                lines += [(*who, "checkpoint", name, number(score.get(name)), 0) for name in facts]
    return pd.DataFrame(lines, columns=COLUMNS)
