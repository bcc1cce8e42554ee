"""Reads a report's spec and the run folders it names, and lays them out as frames. The only reader of runs in a report.

A run that is missing or not finished is a row without numbers and a footnote that names it: a report is never refused
for want of a run, and never shows a mean over fewer seeds without saying so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from udaseg.errors import UserError
from udaseg.runs import is_whole, read_json, read_lines, read_yaml

Status = Literal["finished", "not evaluated", "unfinished", "missing"]
REQUIRED = ("study", "classes", "class_sets", "baseline", "oracle", "recipes", "runs", "output")


@dataclass(frozen=True)
class Run:
    """One planned run: what the report's spec says of it, and the contents of its folders as far as they are there."""

    recipe: str
    title: str  # the recipe's name for readers
    overrides: str  # what differs from the method's defaults
    label: str  # the row of a table: the recipe, with the overrides in brackets where a recipe has several of them
    stage: str
    final: bool
    seed: int
    folder: Path
    evaluation: Path | None  # None: this stage is not evaluated
    status: Status
    id: str  # the run's, and "+" its evaluation's hashed name where it has one; "" unless trained
    spec: dict[str, Any]
    evaluation_spec: dict[str, Any]
    cost: dict[str, Any]
    env: dict[str, Any]
    data: dict[str, str]  # role -> content fingerprint of the prepared set that the run used
    metrics: dict[str, Any]
    files: dict[str, str]  # file name -> SHA-256, of the run's folder

    @property
    def trained(self) -> bool:
        """Whether there is a finished training run, evaluated or not."""
        return self.status in ("finished", "not evaluated")

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl; none for a run that is not whole."""
        path = self.folder / "history.jsonl"
        return read_lines(path) if self.trained and path.is_file() else []


@dataclass(frozen=True)
class Report:
    """A report's spec with every run read."""

    study: str
    classes: list[str]
    class_sets: dict[str, list[str]]
    baseline: str
    oracle: str
    recipes: list[str]
    data: dict[str, Path]  # role -> prepared set
    output: Path
    runs: list[Run]
    pretraining: list[Run]  # runs that no recipe names, but whose weights some run started from

    @property
    def headline(self) -> str:
        """The class set whose mIoU is the study's result: the first one."""
        return next(iter(self.class_sets))

    def labels(self) -> list[str]:
        """The rows of the main table: recipe and point of a sweep, recipes in the study's order."""
        finals = sorted((run for run in self.runs if run.final), key=lambda run: self.recipes.index(run.recipe))
        return list(dict.fromkeys(run.label for run in finals))

    def final_runs(self, label: str) -> list[Run]:
        """The planned final-stage runs of one row, by seed."""
        return sorted((run for run in self.runs if run.final and run.label == label), key=lambda run: run.seed)

    def title(self, label: str) -> str:
        """A row's name for readers."""
        run = next((run for run in [*self.runs, *self.pretraining] if run.label == label), None)
        return label if run is None else label.replace(run.recipe, run.title, 1)


def read_report(spec_path: Path) -> Report:
    """The report spec at `spec_path` with every run it names.

    Raises:
        UserError: the spec lacks a key, names a recipe that is not listed, or a whole folder lacks a file or holds
            another class list than the spec.
    """
    raw = read_yaml(spec_path)
    missing = [key for key in REQUIRED if key not in raw]
    if missing:
        raise UserError(f"{spec_path}: the keys {missing} are missing; plan the study again to have it written anew")
    stray = sorted({entry["recipe"] for entry in raw["runs"]} - set(raw["recipes"]))
    if stray:
        raise UserError(f"{spec_path}: runs of the recipes {stray}, which are not among recipes {raw['recipes']}")
    runs = read_runs(raw["runs"])
    report = Report(
        study=raw["study"],
        classes=list(raw["classes"]),
        class_sets=dict(raw["class_sets"]),
        baseline=raw["baseline"],
        oracle=raw["oracle"],
        recipes=list(raw["recipes"]),
        data={role: Path(folder) for role, folder in raw.get("data", {}).items()},
        output=Path(raw["output"]),
        runs=runs,
        pretraining=_pretraining(runs),
    )
    for run in report.runs:
        if run.status == "finished" and run.metrics["classes"] != report.classes:
            raise UserError(
                f"{run.evaluation}/metrics.json: scored on the classes {run.metrics['classes']}, but {spec_path} "
                f"reports {report.classes}; evaluate that run with the study's classes"
            )
    return report


def read_runs(entries: list[dict[str, Any]]) -> list[Run]:
    """The runs of a report's spec, an intermediate run that several recipes share only once."""
    kept: dict[tuple[str, str | None], dict[str, Any]] = {}
    points: dict[str, set[str]] = {}
    for entry in entries:
        kept.setdefault((entry["run"], entry["recipe"] if entry["final"] else None), entry)
        if entry["final"]:
            points.setdefault(entry["recipe"], set()).add(entry.get("overrides") or "")
    return [_read_run(entry, len(points.get(entry["recipe"], ())) > 1) for entry in kept.values()]


def _pretraining(runs: list[Run]) -> list[Run]:
    """The runs outside the recipes from which the others took their first weights."""
    named = {str(run.folder) for run in runs}
    starts = {
        start for run in runs for start in run.spec.get("init", {}).values() if (Path(start) / "spec.yaml").is_file()
    }
    entries = [
        {"recipe": "pretraining", "title": "Pretraining", "stage": "pretraining", "final": False, "run": start}
        | {"seed": read_yaml(Path(start) / "spec.yaml")["seed"]}
        for start in sorted(starts - named)
    ]
    return [_read_run(entry, False) for entry in entries]


def _read_run(entry: dict[str, Any], several: bool) -> Run:
    """Reads what there is of a run. `several`: its recipe is in the report with more than one set of overrides."""
    folder = Path(entry["run"])
    evaluation = Path(entry["evaluation"]) if entry.get("evaluation") else None
    trained = is_whole(folder)
    evaluated = evaluation is not None and is_whole(evaluation)
    status: Status
    if not trained:
        status = "unfinished" if folder.is_dir() else "missing"
    else:
        status = "finished" if evaluated else "not evaluated"
    marker: dict[str, Any] = read_json(folder / "run.json") if trained else {"id": "", "files": {}}
    run_id = marker["id"]
    if status == "finished" and evaluation is not None:
        run_id += f"+{evaluation.name}"
    overrides = entry.get("overrides") or ""
    return Run(
        recipe=entry["recipe"],
        title=entry.get("title") or entry["recipe"],
        overrides=overrides,
        label=f"{entry['recipe']} ({overrides or 'defaults'})" if several else entry["recipe"],
        stage=entry["stage"],
        final=entry["final"],
        seed=entry["seed"],
        folder=folder,
        evaluation=evaluation,
        status=status,
        id=run_id,
        spec=read_yaml(folder / "spec.yaml") if trained else {},
        evaluation_spec=read_yaml(evaluation / "spec.yaml") if evaluation is not None and status == "finished" else {},
        cost=read_json(folder / "cost.json") if trained else {},
        env=read_json(folder / "env.json") if trained else {},
        data=read_json(folder / "result.json")["data"] if trained else {},
        metrics=read_json(evaluation / "metrics.json") if evaluation is not None and status == "finished" else {},
        files=marker["files"],
    )


def run_frame(report: Report) -> pd.DataFrame:
    """One row per run: who it is, its status, its scores as fractions (`last.<set>`, `best.<set>`), and its cost."""
    return pd.DataFrame([_row(report, run) for run in [*report.pretraining, *report.runs]])


def _row(report: Report, run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": run.label,
        "recipe": run.recipe,
        "overrides": run.overrides,
        "method": run.spec.get("method", ""),
        "stage": run.stage,
        "final": run.final,
        "seed": run.seed,
        "status": run.status,
        "run": str(run.folder),
        "evaluation": str(run.evaluation or ""),
    }
    for which in ("last", "best"):
        score = run.metrics.get("scores", {}).get(which, {})
        row[f"{which}.iteration"] = number(score.get("iteration"))
        row[f"{which}.monitor"] = number(score.get("monitor"))
        row[f"{which}.pixel_accuracy"] = number(score.get("pixel_accuracy"))
        for name in report.class_sets:
            row[f"{which}.{name}"] = number(score.get("sets", {}).get(name))
    for name in ("seconds", "iterations", "seconds_per_iteration", "peak_memory_mib"):
        row[name] = number(run.cost.get(name))
    row["device"] = run.cost.get("device", "")
    return row


def iou_frame(report: Report) -> pd.DataFrame:
    """One row per evaluated final run, checkpoint (last, best) and class: `iou` (fraction or NaN), `truth` pixels."""
    rows = [
        {"label": run.label, "seed": run.seed, "which": which, "class": name, "iou": number(score["iou"][name])}
        | {"truth": sum(score["confusion"][index])}
        for run in report.runs
        if run.final and run.status == "finished"
        for which, score in run.metrics["scores"].items()
        if score is not None
        for index, name in enumerate(report.classes)
    ]
    return pd.DataFrame(rows, columns=["label", "seed", "which", "class", "iou", "truth"])


def history_frame(report: Report) -> pd.DataFrame:
    """One row per run, iteration and number: `kind` is term, log, lr, monitor (class sets) or iou (classes)."""
    rows = [
        {"label": run.label, "stage": run.stage, "final": run.final, "seed": run.seed, "run": str(run.folder)} | point
        for run in [*report.pretraining, *report.runs]
        for point in history_points(run)
    ]
    columns = ["label", "stage", "final", "seed", "run", "iteration", "kind", "name", "value"]
    return pd.DataFrame(rows, columns=columns)


def history_points(run: Run) -> Iterator[dict[str, Any]]:
    """The numbers of a run's history: iteration, kind, name, value (a fraction for scores, NaN where undefined)."""
    for line in run.history():
        groups = {kind: line.get(key) or {} for kind, key in (("term", "terms"), ("log", "logs"), ("lr", "lr"))}
        monitor = dict(line.get("monitor") or {})
        groups["iou"] = monitor.pop("iou", {})
        monitor.pop("split", None)
        groups["monitor"] = monitor
        for kind, values in groups.items():
            for name, value in values.items():
                if value is None or isinstance(value, int | float):
                    yield {"iteration": line["iteration"], "kind": kind, "name": name, "value": number(value)}


def missing_footnotes(report: Report) -> list[str]:
    """One sentence for each run without the result it should have."""
    what = {
        "missing": "has not been run",
        "unfinished": "did not finish, or its files were changed since",
        "not evaluated": "is trained but not evaluated",
    }
    return [
        f"{run.label}, stage {run.stage}, seed {run.seed}: {what[run.status]} ({run.folder})."
        for run in report.runs
        if run.status != "finished" and not (run.status == "not evaluated" and run.evaluation is None)
    ]


def number(value: Any) -> float:
    """A number of a JSON file; NaN for null and for what is not there."""
    return math.nan if value is None else float(value)
