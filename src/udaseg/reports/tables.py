"""The report's tables: means over seeds with sample standard deviations, as CSV, Markdown and LaTeX.

Scores are fractions in the run folders and percent here. A cell that rests on fewer seeds than planned says so.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from udaseg.reports.collect import Report, iou_frame, missing_footnotes, run_frame

DASH = "–"


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof = 1) over the `n` seeds that have a value, of `planned`."""

    mean: float
    std: float  # NaN for n < 2
    n: int
    planned: int


@dataclass(frozen=True)
class Table:
    """Text cells for readers, and beside them the unrounded numbers for machines."""

    name: str  # of its files
    title: str
    header: list[str]
    rows: list[list[str]]
    numbers: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def summarise(values: Iterable[float], planned: int) -> Summary:
    """Mean and spread of the values that are not NaN."""
    present = pd.Series([value for value in values if not math.isnan(value)], dtype=float)
    return Summary(float(present.mean()), float(present.std(ddof=1)), len(present), planned)


def cell(summary: Summary, digits: int = 1, spread: bool = True, always_n: bool = False) -> str:
    """`41.2 ± 0.8`; with `(n = 2 of 3)` behind it where seeds are missing, and `±` a dash where n = 1."""
    if summary.n == 0:
        return DASH
    text = f"{summary.mean:.{digits}f}"
    if spread:
        text += f" ± {DASH if math.isnan(summary.std) else f'{summary.std:.{digits}f}'}"
    if summary.n < summary.planned:
        text += f" (n = {summary.n} of {summary.planned})"
    elif always_n and summary.n == 1:
        text += " (n = 1)"
    return text


def all_tables(report: Report) -> list[Table]:
    """Every table of the report, in its order."""
    return [main_table(report), class_table(report), run_table(report)]


def main_table(report: Report) -> Table:
    """Methods × headline mIoU (last, best on val), other class sets, gap closed, pixel accuracy and cost."""
    runs = run_frame(report)
    runs = runs[runs["final"]]
    headline, others = report.headline, list(report.class_sets)[1:]
    scores = {f"{name}": f"last.{name}" for name in [headline, *others]} | {"pixel_accuracy": "last.pixel_accuracy"}
    scores = {headline: f"last.{headline}", f"{headline}_best_on_val": f"best.{headline}"} | scores
    rows, numbers = [], []
    for label in report.labels():
        own = runs[runs["label"] == label]
        planned = len(own)
        record: dict[str, Any] = {"method": label, "seeds_planned": planned}
        percent = {name: summarise(100 * own[column], planned) for name, column in scores.items()}
        cost = {name: summarise(own[name], planned) for name in ("seconds_per_iteration", "peak_memory_mib")}
        gap, gap_seeds = gap_closed(runs, report, label)
        for name, summary in (percent | cost).items():
            record |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std, f"{name}_n": summary.n}
        numbers.append(record | {"gap_closed": 100 * gap, "gap_closed_n": gap_seeds})
        gap_text = DASH if math.isnan(gap) else f"{100 * gap:.0f} %"
        rows.append(
            [report.title(label), str(percent[headline].n)]
            + [cell(percent[name], always_n=True) for name in (headline, f"{headline}_best_on_val")]
            + [cell(percent[name]) for name in others]
            + [gap_text + (f" (n = {gap_seeds} of {planned})" if 0 < gap_seeds < planned else "")]
            + [cell(percent["pixel_accuracy"])]
            + [cell(cost["seconds_per_iteration"], 3, spread=False), cell(cost["peak_memory_mib"], 0, spread=False)]
        )
    header = ["Method", "Seeds", f"{headline} (last)", f"{headline} (best on val)", *others]
    header += ["Gap closed", "Pixel accuracy", "s / iteration", "Peak memory (MiB)"]
    title = f"{report.study}: mIoU in percent, mean ± sample standard deviation over seeds"
    return Table("main", title, header, rows, pd.DataFrame(numbers), main_notes(report, runs))


def gap_closed(runs: pd.DataFrame, report: Report, label: str) -> tuple[float, int]:
    """(method − source-only) / (oracle − source-only) of the mean headline mIoU over the seeds that all three have.

    Returns the fraction (NaN where it does not exist) and the number of seeds. `runs` holds final runs only.
    """
    column = f"last.{report.headline}"
    labels = {"method": label, "baseline": report.baseline, "oracle": report.oracle}
    scores = {key: runs[runs["label"] == name].set_index("seed")[column].dropna() for key, name in labels.items()}
    seeds = sorted(set.intersection(*(set(values.index) for values in scores.values())))
    if not seeds:
        return math.nan, 0
    method, baseline, oracle = (float(scores[key].loc[seeds].mean()) for key in ("method", "baseline", "oracle"))
    return ((method - baseline) / (oracle - baseline) if oracle > baseline else math.nan), len(seeds)


def main_notes(report: Report, runs: pd.DataFrame) -> list[str]:
    """What must stand under the main table: protocol, the rule of selection, undefined classes, missing runs."""
    baseline_name, oracle_name = report.title(report.baseline), report.title(report.oracle)
    notes = [
        *protocol_notes(report),
        "Last iteration = the result. Best on val = the checkpoint with the highest validation score, for comparison "
        "only; nothing is selected on the reported split.",
        f"Gap closed = (method − {baseline_name}) / ({oracle_name} − {baseline_name}), of the means of "
        f"{report.headline} (last) over the seeds that all three have.",
        "Cost is of the final stage alone; it depends on the machine.",
    ]
    devices = sorted({str(device) for device in runs["device"] if device})
    if len(devices) > 1:
        notes.append(f"The runs were made on different devices ({', '.join(devices)}): their cost cannot be compared.")
    column = f"last.{report.headline}"
    baseline, oracle = (runs[runs["label"] == name][column].mean() for name in (report.baseline, report.oracle))
    if not oracle > baseline:
        notes.append(f"No gap to close: {oracle_name} has no result or none above that of {baseline_name}.")
    return notes + class_notes(report) + missing_footnotes(report)


def protocol_notes(report: Report) -> list[str]:
    """One sentence per protocol that occurs; more than one means that the rows cannot be compared, and is said."""
    groups: dict[str, list[str]] = {}
    for run in report.runs:
        if run.status == "finished" and run.final:
            groups.setdefault(json.dumps(run.metrics["protocol"], sort_keys=True), []).append(
                f"{run.label} seed {run.seed}"
            )
    texts = [protocol_text(json.loads(key), report) for key in groups]
    if len(texts) > 1:
        members = [f"{text} – used by {', '.join(names)}." for text, names in zip(texts, groups.values(), strict=True)]
        return ["Not all runs were scored in the same way; compare only rows of one protocol.", *members]
    return [f"{text}." for text in texts]


def protocol_text(protocol: dict[str, Any], report: Report) -> str:
    """The evaluation protocol in one line."""
    window = protocol["window"]
    how = "whole image" if window is None else f"sliding window {size(window['size'])}, stride {size(window['stride'])}"
    sets = "; ".join(f"{name}: {len(members)} classes" for name, members in report.class_sets.items())
    return (
        f"Protocol: {protocol['dataset']}, split {protocol['split']}, {protocol['images']} images, input "
        f"{size(protocol['input'])}, {how}, flip {'on' if protocol['flip'] else 'off'}, "
        f"scales {', '.join(f'{scale:g}' for scale in protocol['scales'])}; {protocol['resize']}; {sets}"
    )


def size(pair: list[int]) -> str:
    """Height × width."""
    return f"{pair[0]} × {pair[1]}"


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
        record: dict[str, Any] = {"method": label, "seeds_planned": planned}
        for name, summary in summaries.items():
            record |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std, f"{name}_n": summary.n}
        numbers.append(record)
        rows.append([report.title(label)] + [cell(summary, spread=False) for summary in summaries.values()])
    notes = [*protocol_notes(report), "Means over seeds; their standard deviations are in classes.csv."]
    title = f"{report.study}: IoU per class in percent, last iteration"
    return Table(
        "classes", title, ["Method", *report.classes], rows, pd.DataFrame(numbers), notes + class_notes(report)
    )


def run_table(report: Report) -> Table:
    """One row per planned run, finished or not."""
    frame = run_frame(report)
    headline = report.headline
    rows = []
    for row in frame.to_dict("records"):
        scores = [
            DASH if math.isnan(row[key]) else f"{100 * row[key]:.1f}"
            for key in (f"last.{headline}", f"best.{headline}")
        ]
        plain = [("iterations", 0), ("seconds", 0), ("seconds_per_iteration", 3), ("peak_memory_mib", 0)]
        cost = [DASH if math.isnan(row[key]) else f"{row[key]:.{digits}f}" for key, digits in plain]
        title = report.title(row["label"])
        status = row["status"] if row["status"] != "not evaluated" or row["evaluation"] else "finished"
        rows.append(
            [
                title,
                row["stage"],
                str(row["seed"]),
                row["overrides"] or DASH,
                status,
                *scores,
                *cost,
                row["device"] or DASH,
            ]
        )
    header = [
        "Recipe",
        "Stage",
        "Seed",
        "Differences from the method's defaults",
        "Status",
        f"{headline} (last)",
        f"{headline} (best on val)",
    ]
    header += ["Iterations", "Seconds", "s / iteration", "Peak memory (MiB)", "Device"]
    percent = [
        column for column in frame.columns if column.startswith(("last.", "best.")) and "iteration" not in column
    ]
    numbers = frame.assign(**{column: 100 * frame[column] for column in percent})
    return Table("runs", f"{report.study}: every run", header, rows, numbers, missing_footnotes(report))


def to_csv(table: Table) -> str:
    """The unrounded numbers (scores in percent); empty where there is none."""
    return table.numbers.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def to_markdown(table: Table) -> str:
    """A GitHub table with its notes below."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(table.header) - 1)
    lines = [f"**{table.title}**", "", line(table.header), rule, *(line(row) for row in table.rows), ""]
    return "\n".join(lines + [f"- {note}" for note in table.notes]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular with booktabs' rules, which are drawn with `hline` where that package is not loaded."""
    rules = "\n".join(f"\\providecommand{{\\{name}rule}}{{\\hline}}" for name in ("top", "mid", "bottom"))
    body = "\n".join("  " + " & ".join(map(escape_latex, row)) + r" \\" for row in table.rows)
    header = "  " + " & ".join(map(escape_latex, table.header)) + r" \\"
    notes = "\n".join(f"% {note}" for note in table.notes)
    columns = "l" + "r" * (len(table.header) - 1)
    return (
        f"% {table.title}\n{notes}\n{rules}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """`text` with LaTeX's special characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)
