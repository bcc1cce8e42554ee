"""The report's tables: means over seeds with sample standard deviations.

Scores are fractions in the run folders and percent here. A cell that rests on fewer seeds than planned says so.
"""

from typing import Any

import pandas as pd

from udaseg.reports.compare.comparisons import (
    Comparisons,
    best,
    declared_notes,
    difference,
    gap_closed,
    gap_text,
    metric_notes,
    scores,
)
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.published import published_tables
from udaseg.reports.read.report import Report
from udaseg.reports.read.run_folders import missing_footnotes
from udaseg.reports.read.scores import COST, iou_frame, run_frame
from udaseg.reports.tables.claims import claims_table
from udaseg.reports.tables.fidelity import fidelity_table
from udaseg.reports.tables.pseudo_labels import pseudo_label_table
from udaseg.reports.tables.semi_supervised import semi_supervised_tables
from udaseg.reports.tables.stages import stage_table
from udaseg.reports.tables.sweeps import ablation_tables
from udaseg.reports.tables.table import DASH, Table, cell, listed, plain, summarise

NORMALISATION = "adabn"  # the method that only re-estimates normalisation: what an adaptation method must beat


def all_tables(report: Report) -> list[Table]:
    """Every table of the report, in its order; some are there only where the study has what they show."""
    tables = [
        main_table(report),
        stage_table(report),
        pseudo_label_table(report),
        class_table(report),
        *ablation_tables(report),
        claims_table(report, report.claims),
        fidelity_table(report),
        *published_tables(report),
        *semi_supervised_tables(report),
        cost_table(report),
        run_table(report),
    ]
    return [table for table in tables if table is not None]


def main_table(report: Report) -> Table:
    """Methods × headline mIoU (last, best on val), other class sets, differences, gap closed and pixel accuracy."""
    runs = run_frame(report, [run for run in report.runs if run.final])
    headline, others = report.headline, list(report.class_sets)[1:]
    columns = {headline: f"last.{headline}", f"{headline}_best_on_val": f"best.{headline}"}
    columns |= {name: f"last.{name}" for name in [*others, "pixel_accuracy"]}
    baseline, oracle = scores(report, report.baseline), scores(report, report.oracle)
    bounds = reference_labels(report)
    comparisons = [
        Comparisons(
            f"difference_to_{other}",
            [None if label == other else difference(report, label, other) for label in report.labels()],
        )
        for other in bounds
    ]
    rows, numbers = [], []
    for index, label in enumerate(report.labels()):
        own = runs[runs["label"] == label]
        planned = len(own)
        percent = {name: summarise(100 * own[column], planned) for name, column in columns.items()}
        values = scores(report, label)
        gap, gap_seeds = gap_closed(values, baseline, oracle)
        record: dict[str, Any] = {"method": label, "metric": report.metric(label, headline), "seeds_planned": planned}
        for name, summary in percent.items():
            record |= summary.numbers(name)
        for column in comparisons:
            record |= column.numbers(index)
        numbers.append(record | {"gap_closed": 100 * gap, "gap_closed_n": gap_seeds})
        rows.append(
            [report.scored_title(label), str(percent[headline].n), cell(percent[headline], always_n=True)]
            + [column.text(index, planned) for column in comparisons]
            + [gap_text(gap, gap_seeds, planned), cell(percent[f"{headline}_best_on_val"], always_n=True)]
            + [cell(percent[name]) for name in [*others, "pixel_accuracy"]]
        )
    header = [
        "Method",
        "Seeds",
        f"{headline} (last)",
        *(f"Difference to {report.scored_title(other)}" for other in bounds),
    ]
    header += ["Gap closed", f"{headline} (best on val)", *others, "Pixel accuracy"]
    title = f"{report.study}: mIoU in percent, mean ± sample standard deviation over seeds"
    leader = best(report, [label for label in report.labels() if label not in report.bounds()])
    marked = frozenset({(report.labels().index(leader), header.index(f"{headline} (last)"))} if leader else ())
    return Table("main", title, header, rows, pd.DataFrame(numbers), main_notes(report, comparisons, bounds), marked)


def reference_labels(report: Report) -> list[str]:
    """The rows to which every other one is compared: the baseline and, where it is in the study, AdaBN."""
    methods = {label: {run.spec.get("method") for run in report.final_runs(label)} for label in report.labels()}
    bound = next((label for label, names in methods.items() if NORMALISATION in names), report.baseline)
    return list(dict.fromkeys([report.baseline, bound]))


def main_notes(report: Report, comparisons: list[Comparisons], bounds: list[str]) -> list[str]:
    """What must stand under the main table: protocol, the rule of selection, undefined classes, missing runs."""
    baseline_name, oracle_name = report.title(report.baseline), report.title(report.oracle)
    notes = [
        *protocol_notes(report, report.labels()),
        *metric_notes(report, report.labels()),
        "Last iteration = the result. Best on val = the checkpoint with the highest validation score, for comparison "
        "only; nothing is selected on the reported split.",
        *declared_notes(comparisons),
        "A method is marked as the best only where the test tells it from every other one (bounds apart).",
    ]
    if len(bounds) > 1:
        notes.append(
            f"{report.title(bounds[1])} adapts nothing but the normalisation: the difference to it is what a method "
            "adds to that."
        )
    notes.append(
        f"Gap closed = (method − {baseline_name}) / ({oracle_name} − {baseline_name}), of the means of "
        f"{report.headline} (last) over the seeds that all three have."
    )
    baseline, oracle = (scores(report, name).mean() for name in (report.baseline, report.oracle))
    if not oracle > baseline:
        notes.append(f"No gap to close: {oracle_name} has no result or none above that of {baseline_name}.")
    rows = [*report.labels(), *(run.label for run in report.pretraining)]
    return notes + class_notes(report) + missing_footnotes(report, rows)


def class_notes(report: Report) -> list[str]:
    """Names the classes that the scored images do not show, and those whose IoU is undefined in some run."""
    frame = iou_frame(report)
    frame = frame[frame["which"] == "last"]
    notes = []
    absent = [name for name in report.classes if (frame[frame["class"] == name]["truth"] == 0).any()]
    undefined = [name for name in report.classes if frame[frame["class"] == name]["iou"].isna().any()]
    if absent:
        notes.append(f"Absent from the ground truth of the scored images: {', '.join(absent)}.")
    if undefined:
        notes.append(
            f"IoU undefined ({DASH}; neither in the ground truth nor predicted) in at least one run and left out of "
            f"its means: {', '.join(undefined)}."
        )
    return notes


def class_table(report: Report) -> Table:
    """Methods × per-class IoU at the last iteration."""
    frame = iou_frame(report)
    frame = frame[frame["which"] == "last"]
    rows, numbers = [], []
    for label in report.labels():
        own = frame[frame["label"] == label]
        planned = len(report.final_runs(label))
        summaries = {name: summarise(100 * own[own["class"] == name]["iou"], planned) for name in report.classes}
        record: dict[str, Any] = {"method": label, "metric": report.metric(label, report.headline)}
        record["seeds_planned"] = planned
        for name, summary in summaries.items():
            record |= summary.numbers(name)
        numbers.append(record)
        rows.append([report.scored_title(label)] + [cell(summary, spread=False) for summary in summaries.values()])
    notes = [
        *protocol_notes(report, report.labels()),
        "Means over seeds; their standard deviations are in classes.csv.",
    ]
    title = f"{report.study}: IoU per class in percent, last iteration"
    return Table(
        "classes", title, ["Method", *report.classes], rows, pd.DataFrame(numbers), notes + class_notes(report)
    )


def cost_table(report: Report) -> Table | None:
    """Methods × what they cost to train, all their stages together; None where no run tells."""
    if not report.measured:
        return None
    rows, numbers = [], []
    semi_supervised = [label for labels in report.semi_supervised().values() for label in labels]
    for label in [*report.labels(), *semi_supervised]:
        finals = report.final_runs(label)
        frame = run_frame(report, [run for run in report.runs if run.label == label])
        whole = frame.groupby("seed").filter(lambda stages: bool(stages["seconds"].notna().all()))
        by_seed = whole.groupby("seed")
        cost = {
            "iterations": by_seed["iterations"].sum(),
            "seconds": by_seed["seconds"].sum(),
            "seconds_per_iteration": frame[frame["final"]]["seconds_per_iteration"],
            "peak_memory_mib": by_seed["peak_memory_mib"].max(),
        }
        summaries = {name: summarise(values, len(finals)) for name, values in cost.items()}
        record: dict[str, Any] = {"method": label, "seeds_planned": len(finals), "stages": len(report.stages(label))}
        for name, summary in summaries.items():
            record |= summary.numbers(name)
        numbers.append(record)
        digits = {"iterations": 0, "seconds": 0, "seconds_per_iteration": 3, "peak_memory_mib": 0}
        texts = [cell(summary, digits[name], spread=False) for name, summary in summaries.items()]
        rows.append([report.title(label), str(len(report.stages(label))), *texts])
    header = ["Method", "Stages", "Iterations", "Seconds", "s / iteration (final stage)", "Peak memory (MiB)"]
    runs = run_frame(report, report.trainings())
    notes = [
        "Of one seed, mean over seeds: iterations and seconds of all stages together, the peak of the stage that needs "
        "most. Training only, without pretraining, labelling and scoring; it depends on the machine.",
        f"All finished training runs of the study together: {runs['seconds'].sum() / 3600:.1f} hours. A run that "
        "several recipes share is in each of their rows, and in this sum once.",
    ]
    if semi_supervised:
        notes.append("N = target images with labels: these rows are not unsupervised adaptation.")
    devices = sorted({str(device) for device in runs["device"] if device})
    if len(devices) > 1:
        notes.append(f"The runs were made on different devices ({', '.join(devices)}): their cost cannot be compared.")
    return Table("cost", f"{report.study}: cost of training", header, rows, pd.DataFrame(numbers), notes)


def run_table(report: Report) -> Table:
    """One row per planned run, finished or not."""
    runs = report.each_once()
    frame = run_frame(report, runs)
    headline = report.headline
    rows = []
    for run, row in zip(runs, frame.to_dict("records"), strict=True):
        status = run.status if run.status != "not evaluated" or run.evaluation else "finished"
        places = report.places(run)
        who = [listed(report.scored_title(label) for label, _ in places)]
        who += [listed(stage for _, stage in places), str(run.seed), run.overrides or DASH, status]
        percent = [plain(100 * row[key]) for key in (f"last.{headline}", f"best.{headline}")]
        digits = {"iterations": 0, "seconds": 0, "seconds_per_iteration": 3, "peak_memory_mib": 0}
        cost = [plain(row[key], count) for key, count in digits.items()]
        rows.append([*who, *percent, *([*cost, row["device"] or DASH] if report.measured else [])])
    header = ["Recipe", "Stage", "Seed", "Differences from the method's defaults", "Status"]
    header += [f"{headline} (last)", f"{headline} (best on val)"]
    if report.measured:
        header += ["Iterations", "Seconds", "s / iteration", "Peak memory (MiB)", "Device"]
    else:
        frame = frame.drop(columns=[*COST, "device"])
    percents = [name for name in frame.columns if name.startswith(("last.", "best.")) and "iteration" not in name]
    numbers = frame.assign(**{name: 100 * frame[name] for name in percents})
    notes = missing_footnotes(report)
    if not report.measured:
        notes.append("What the runs cost, and on which machine, is not here: that is no part of a versioned result.")
    return Table("runs", f"{report.study}: every run", header, rows, numbers, notes)
