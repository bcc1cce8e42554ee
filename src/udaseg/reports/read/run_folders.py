"""Reads a report's spec and the run folders it names. The only reader of runs in a report; `frames` lays them out.

A run that is missing or not finished is a row without numbers and a footnote that names it: a report is never refused
for want of a run, and never shows a mean over fewer seeds without saying so.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.reports.read.report import Report, Run, Status
from udaseg.reports.tables.table import listed
from udaseg.runs.files import read_json, read_yaml
from udaseg.runs.records import found, located
from udaseg.runs.spec import ReportRun, ReportSpec, read_spec


def read_report(spec_path: Path, measured: bool = True) -> Report:
    """The report spec at `spec_path` with every run it names.

    Args:
        spec_path: written by the plan.
        measured: whether the report is to tell what a clock and the machine say of a run; else it is a function of the
            results alone.

    Raises:
        UserError: the spec lacks a key, names a recipe that is not listed, or a whole folder lacks a file or holds
            another class list than the spec.
    """
    spec = read_spec(ReportSpec, spec_path)
    stray = sorted({entry.recipe for entry in spec.runs} - set(spec.recipes))
    if stray:
        raise UserError(f"{spec_path}: runs of the recipes {stray}, which are not among recipes {spec.recipes}")
    runs = read_runs(spec.runs)
    pretraining = _pretraining(runs)
    if not measured:
        runs, pretraining = ([replace(run, cost={}, env={}) for run in each] for each in (runs, pretraining))
    for run in runs:
        for path, content in ((run.evaluation, run.metrics), (run.judged, run.quality)):
            if content and content["classes"] != spec.classes:
                raise UserError(
                    f"{path}: made for the classes {content['classes']}, but {spec_path} reports {spec.classes}; make "
                    "it again with the study's classes"
                )
    return Report(
        study=spec.study,
        classes=spec.classes,
        class_sets=spec.class_sets,
        baseline=spec.baseline,
        oracle=spec.oracle,
        recipes=spec.recipes,
        data={role: Path(folder) for role, folder in spec.data.items()},
        translations=[(shown.translator, Path(shown.folder)) for shown in spec.translations],
        output=Path(spec.output),
        runs=runs,
        pretraining=pretraining,
        sweeps=spec.sweeps,
        skipped=spec.skipped,
        claims=spec.claims,
    )


def read_runs(entries: list[ReportRun]) -> list[Run]:
    """The runs of a report's spec, in which the stages of a recipe and seed stand in order, the final one last."""
    points: dict[str, set[str]] = {}
    for entry in entries:
        if entry.final:
            points.setdefault(entry.recipe, set()).add(entry.overrides)
    read: dict[tuple[str, str | None, str | None], Run] = {}
    label: dict[tuple[str, int], str] = {}  # of the final stage that comes next
    runs = []
    for entry in reversed(entries):
        if entry.final:
            several = len(points[entry.recipe]) > 1
            point = f"{entry.recipe} ({entry.overrides or 'defaults'})" if several else entry.recipe
            label[entry.recipe, entry.seed] = point
        key = (entry.run, entry.evaluation, entry.quality)
        if key not in read:
            read[key] = _read_run(entry)
        runs.append(
            replace(
                read[key],
                recipe=entry.recipe,
                title=entry.title,
                overrides=entry.overrides,
                label=label.get((entry.recipe, entry.seed), entry.recipe),
                stage=entry.stage,
                final=entry.final,
                labelled_target=entry.labelled_target,
                sweep=entry.sweep,
                base=entry.base or entry.recipe,
                point=entry.point,
            )
        )
    most: dict[str, int] = {}  # labelled target images in any stage of a row
    for run in runs:
        most[run.label] = max(most.get(run.label, 0), run.labelled_target)
    return [replace(run, labelled_target=most[run.label]) for run in reversed(runs)]


def _pretraining(runs: list[Run]) -> list[Run]:
    """The runs outside the recipes from which the others took their first weights."""
    named = {str(run.folder) for run in runs}
    inits = {start for run in runs for start in run.spec.get("init", {}).values() if start.startswith("results/")}
    starts = {start: located(Path(start)) for start in inits - named}
    entries = [
        ReportRun(
            recipe="pretraining",
            title="Pretraining",
            stage="pretraining",
            final=False,
            seed=read_yaml(place / "spec.yaml")["seed"],
            run=start,
            evaluation=None,
            quality=None,
            labelled_target=0,
            overrides="",
        )
        for start, place in sorted(starts.items())
        if (place / "spec.yaml").is_file()
    ]
    return [_read_run(entry) for entry in entries]


def _read_run(entry: ReportRun) -> Run:
    """Reads what there is of a run."""
    folder = Path(entry.run)
    evaluation = Path(entry.evaluation) if entry.evaluation else None
    judged = Path(entry.quality) if entry.quality else None
    place, trained = _found(folder)
    evaluated_at, evaluated = (None, False) if evaluation is None else _found(evaluation)
    evaluated &= trained
    judged_at, is_judged = (None, False) if judged is None else _found(judged)
    status: Status
    if not trained:
        status = "unfinished" if folder.is_dir() else "missing"
    else:
        status = "finished" if evaluated else "not evaluated"
    marker: dict[str, Any] = read_json(place / "run.json") if trained else {"id": "", "files": {}}
    return Run(
        recipe=entry.recipe,
        title=entry.title,
        overrides=entry.overrides,
        label=entry.recipe,
        stage=entry.stage,
        final=entry.final,
        seed=entry.seed,
        folder=folder,
        evaluation=evaluation,
        judged=judged,
        labelled_target=entry.labelled_target,
        status=status,
        id=marker["id"] + (f"+{evaluation.name}" if evaluation is not None and evaluated else ""),
        spec=read_yaml(place / "spec.yaml") if trained else {},
        evaluation_spec=read_yaml(evaluated_at / "spec.yaml") if evaluated_at is not None and evaluated else {},
        cost=_measured(place / "cost.json") if trained else {},
        env=_measured(place / "env.json") if trained else {},
        data=read_json(place / "result.json")["data"] if trained else {},
        metrics=read_json(evaluated_at / "metrics.json") if evaluated_at is not None and evaluated else {},
        quality=read_json(judged_at / "quality.json") if judged_at is not None and is_judged else {},
        files=marker["files"],
        sweep=entry.sweep,
        base=entry.base or entry.recipe,
        point=entry.point,
        place=place,
        evaluated_at=evaluated_at,
    )


def _measured(path: Path) -> dict[str, Any]:
    """What was measured of a run; nothing where its result came from elsewhere without that."""
    return dict(read_json(path)) if path.is_file() else {}


def _found(folder: Path) -> tuple[Path, bool]:
    """Where the numbers of a job's folder are read, and whether they are there: it is whole, or there is a record."""
    place = found(folder)
    return place or folder, place is not None


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


def missing_footnotes(report: Report, labels: Iterable[str] | None = None) -> list[str]:
    """One sentence for each run without the result it should have; only for those that these rows have, where given."""
    what = {
        "missing": "has not been run",
        "unfinished": "did not finish, or its files were changed since",
        "not evaluated": "is trained but not evaluated",
    }
    wanted = None if labels is None else set(labels)
    notes = []
    for run in report.each_once():
        places = [place for place in report.places(run) if wanted is None or place[0] in wanted]
        if not places or run.status == "finished" or (run.status == "not evaluated" and run.evaluation is None):
            continue
        names = listed(f"{label}, stage {stage}" for label, stage in places)
        notes.append(f"{names}, seed {run.seed}: {what[run.status]} ({run.folder}).")
    return notes


def set_score(report: Report, run: Run, which: str, class_set: str) -> float:
    """The score of a class set by the metric of the run's row, a fraction; NaN where there is none.

    Args:
        report: what the run is of.
        run: one of its runs.
        which: the checkpoint, "last" or "best".
        class_set: one of the study's.
    """
    scored = run.metrics.get("scores", {}).get(which) or {}
    return number(scored.get("sets", {}).get(report.metric(run.label, class_set)))


def number(value: Any) -> float:
    """A number of a JSON file; NaN for null and for what is not there."""
    return math.nan if value is None else float(value)
