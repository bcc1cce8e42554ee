"""The quality of the pseudo-labels that each stage was trained on.

They are judged on the target's training images by a job of its own; nothing that trains reads the result.
"""

from typing import Any

import pandas as pd

from udaseg.reports.compare.summaries import summarise
from udaseg.reports.read.quality import ALL, by_stage, quality_frame
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Row
from udaseg.reports.tables.table import Table, cell

QUANTITIES = ("coverage", "precision", "recall")
MEANING = (
    "Coverage of a class = pixels that were given this label / all pixels of the target's training images, of all "
    "classes together = pixels with a label / all pixels.",
    "Precision = right pixels / pixels with this label (where the ground truth is not ignored); recall = right pixels "
    "/ pixels of this class in the ground truth. Only the oracle and rows with labelled target images train on it.",
)


def pseudo_label_table(report: Report) -> Table | None:
    """Recipe, stage and quantity × classes, means over seeds. None where no stage was trained on pseudo-labels."""
    if not any(run.judged for run in report.runs if run.sweep is None and not run.labelled_target):
        return None
    classes = [ALL, *report.classes]
    rows, numbers = [], []
    rules: dict[tuple[Row, str], list[str]] = {}
    for (row, stage), own in by_stage(report, quality_frame(report)).items():
        rule = own["rule"].iloc[0]
        rules.setdefault((row, rule), []).append(stage)
        summaries = {
            (quantity, name): summarise(100 * own[own["class"] == name][quantity], row.stages[stage].planned)
            for quantity in [*QUANTITIES, "share"]
            for name in classes
        }
        for name in classes:
            record: dict[str, Any] = {"method": row.name, "stage": stage, "rule": rule, "class": name}
            for quantity in [*QUANTITIES, "share"]:
                record |= summaries[quantity, name].numbers(quantity)
            numbers.append(record)
        for quantity in QUANTITIES:
            if own[quantity].notna().any():
                digits = 2 if quantity == "coverage" else 1
                texts = [cell(summaries[quantity, name], digits, spread=False) for name in classes]
                rows.append([row.title, f"{stage}, {quantity}", *texts])
    notes = [*MEANING, "Means over seeds; their standard deviations are in pseudo_labels.csv."]
    notes += [f"{row.title}: rule {rule} ({', '.join(stages)})." for (row, rule), stages in rules.items()]
    notes += [
        f"{run.row}, stage {run.stage}, seed {run.seed}: its pseudo-labels are not judged ({run.judged})."
        for run in report.trainings()
        if run.sweep is None and run.judged and not run.quality and not run.labelled_target
    ]
    title = f"{report.study}: the pseudo-labels that each stage was trained on, in percent"
    header = ["Method", "Stage", *classes]
    return Table("pseudo_labels", title, header, rows, pd.DataFrame(numbers), notes, grouped=True)
