"""All runs with their scores, and the training cost of the rows."""

import math
from typing import Any

import pandas as pd

from udaseg.reports.compare.summaries import summarise
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import number
from udaseg.reports.tables.notes import missing_notes
from udaseg.reports.tables.table import DASH, Table, cell, listed, plain

COST = ("seconds", "iterations", "seconds_per_iteration", "peak_memory_mib")  # keys of cost.json
DIGITS = {"iterations": 0, "seconds": 0, "seconds_per_iteration": 3, "peak_memory_mib": 0}  # as they are shown


def cost_table(report: Report) -> Table | None:
    """Methods × the cost of training all their stages; None where no run has a cost."""
    if not report.measured:
        return None
    rows, numbers = [], []
    semi_supervised = [row for own in report.semi_supervised.values() for row in own]
    for row in [*report.main, *semi_supervised]:
        stages, planned = len(row.stages), row.final.planned
        costs = {
            "iterations": [sum(values) for values in row.costs("iterations").values()],
            "seconds": [math.fsum(values) for values in row.costs("seconds").values()],
            "seconds_per_iteration": [number(run.cost.get("seconds_per_iteration")) for run in row.final.runs],
            "peak_memory_mib": [max(values) for values in row.costs("peak_memory_mib").values()],
        }
        summaries = {name: summarise(values, planned) for name, values in costs.items()}
        record: dict[str, Any] = {"method": row.name, "seeds_planned": planned, "stages": stages}
        for name, summary in summaries.items():
            record |= summary.numbers(name)
        numbers.append(record)
        texts = [cell(summary, DIGITS[name], spread=False) for name, summary in summaries.items()]
        rows.append([row.title, str(stages), *texts])
    header = ["Method", "Stages", "Iterations", "Seconds", "s / iteration (final stage)", "Peak memory (MiB)"]
    spent = [run.cost for run in report.trainings() if run.cost]
    hours = math.fsum(cost["seconds"] for cost in spent) / 3600
    notes = [
        "Of one seed, mean over seeds: iterations and seconds of all stages together, the peak of the stage that needs "
        "most. Training only, without pretraining, labelling and scoring; it depends on the machine.",
        f"All finished training runs of the study together: {hours:.1f} hours. A run that several recipes share is in "
        "each of their rows, and in this sum once.",
    ]
    if semi_supervised:
        notes.append("N = target images with labels: these rows are not unsupervised adaptation.")
    devices = sorted({str(cost["device"]) for cost in spent if cost.get("device")})
    if len(devices) > 1:
        notes.append(f"The runs were made on different devices ({', '.join(devices)}): their cost cannot be compared.")
    return Table("cost", f"{report.study}: cost of training", header, rows, pd.DataFrame(numbers), notes)


def run_table(report: Report) -> Table:
    """One row per planned run, finished or not."""
    headline = report.headline
    rows, numbers = [], []
    for run in report.each_once():
        row = report.rows[run.row]
        record: dict[str, Any] = {"label": run.row, "recipe": run.recipe, "overrides": run.overrides}
        record |= {"method": run.spec.get("method", ""), "stage": run.stage, "final": run.final}
        record |= {"labelled_target": run.labelled_target, "metric": row.headline, "seed": run.seed}
        record |= {"status": run.status, "run": str(run.folder), "evaluation": str(run.evaluation or "")}
        for checkpoint in ("last", "best"):
            facts = [("checkpoint", name) for name in ("iteration", "monitor", "pixel_accuracy")]
            for kind, name in [*facts, *(("set", name) for name in report.class_sets)]:
                score = report.score(run, kind, name, checkpoint)
                record[f"{checkpoint}.{name}"] = score if name == "iteration" else 100 * score
        cost = {name: number(run.cost.get(name)) for name in COST}
        device = run.cost.get("device", "")
        numbers.append(record | (cost | {"device": device} if report.measured else {}))
        status = run.status if run.status != "not evaluated" or run.evaluation else "finished"
        places = report.places(run)
        who = [listed(row.scored_title for row, _ in places), listed(stage for _, stage in places), str(run.seed)]
        percent = [plain(record[f"{checkpoint}.{headline}"]) for checkpoint in ("last", "best")]
        spent = [*(plain(cost[name], digits) for name, digits in DIGITS.items()), device or DASH]
        rows.append([*who, run.overrides or DASH, status, *percent, *(spent if report.measured else [])])
    header = ["Recipe", "Stage", "Seed", "Differences from the method's defaults", "Status"]
    header += [f"{headline} (last)", f"{headline} (best on val)"]
    header += ["Iterations", "Seconds", "s / iteration", "Peak memory (MiB)", "Device"] if report.measured else []
    notes = missing_notes(report)
    if not report.measured:
        notes.append("What the runs cost, and on which machine, is not here: that is no part of a versioned result.")
    return Table("runs", f"{report.study}: every run", header, rows, pd.DataFrame(numbers), notes)
