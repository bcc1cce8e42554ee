"""Reads a report's spec and the run folders that it names. No other module of a report reads run folders' JSON.

A missing or unfinished run is a row without numbers and a footnote that names it: a report is never refused because a
run is missing, and never shows a mean over fewer seeds without saying so.
"""

from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run
from udaseg.runs.files import read_json, read_yaml
from udaseg.runs.folder import MARKER
from udaseg.runs.records import RESULTS, found, located
from udaseg.runs.spec import ReportRun, ReportSpec, read_spec


def read_report(spec_path: Path, measured: bool = True) -> Report:
    """The report spec at `spec_path` with every run it names.

    Args:
        spec_path: written by the plan.
        measured: whether to read what a clock and the machine say of a run; without that the report is a function of
            the results alone.

    Raises:
        UserError: the spec lacks a key or names a recipe that is not listed, or a whole folder lacks a file or was made
            for other classes than those of the spec.
    """
    spec = read_spec(ReportSpec, spec_path)
    stray = sorted({entry.recipe for entry in spec.runs} - set(spec.recipes))
    if stray:
        raise UserError(f"{spec_path}: runs of the recipes {stray}, which are not among recipes {spec.recipes}")
    runs = read_runs(spec.runs, measured)
    for run in runs:
        for path, content in ((run.evaluation, run.metrics), (run.judged, run.quality)):
            if content and content["classes"] != spec.classes:
                raise UserError(
                    f"{path}: made for the classes {content['classes']}, but {spec_path} reports {spec.classes}; make "
                    "it again with the study's classes"
                )
    same = (
        *("study", "classes", "class_sets", "baseline", "oracle", "recipes", "sweeps", "skipped", "claims"),
        *("fidelity", "networks"),
    )
    return Report(
        **{name: getattr(spec, name) for name in same},
        data={role: Path(folder) for role, folder in spec.data.items()},
        translations=[(shown.translator, Path(shown.folder)) for shown in spec.translations],
        output=Path(spec.output),
        runs=runs,
        pretraining=_read_pretraining(runs, measured),
    )


def read_runs(entries: list[ReportRun], measured: bool = True) -> list[Run]:
    """The runs of a report's spec, in which the stages of a recipe and seed stand in order, the final one last."""
    points: dict[str, set[str]] = {}
    for entry in entries:
        if entry.final:
            points.setdefault(entry.recipe, set()).add(entry.overrides)
    rows: list[str] = []  # of the entries from the last one to the first: each is part of the row that follows
    following: dict[tuple[str, int], str] = {}
    labelled: dict[str, int] = {}  # row -> most labelled target images in any of its stages
    for entry in reversed(entries):
        if entry.final:
            several = len(points[entry.recipe]) > 1
            point = f"{entry.recipe} ({entry.overrides or 'defaults'})" if several else entry.recipe
            following[entry.recipe, entry.seed] = point
        rows.append(following.get((entry.recipe, entry.seed), entry.recipe))
        labelled[rows[-1]] = max(labelled.get(rows[-1], 0), entry.labelled_target)
    contents: dict[tuple[str | None, ...], dict[str, Any]] = {}
    runs = []
    for entry, row in zip(entries, reversed(rows), strict=True):
        key = (entry.run, entry.evaluation, entry.quality)
        if key not in contents:
            evaluation, judged = (None if folder is None else Path(folder) for folder in key[1:])
            contents[key] = _read_folders(Path(entry.run), evaluation, judged, measured)
        planned = entry.model_dump(exclude={"run", "evaluation", "quality", "labelled_target", "base"})
        base = entry.base or entry.recipe
        runs.append(Run(**planned, base=base, row=row, labelled_target=labelled[row], **contents[key]))
    return runs


def _read_pretraining(runs: list[Run], measured: bool) -> list[Run]:
    """The runs outside the recipes from which the others took their first weights."""
    inits = {start for run in runs for start in run.spec.get("init", {}).values() if start.startswith(f"{RESULTS}/")}
    starts = map(Path, sorted(inits - {str(run.folder) for run in runs}))
    name = "pretraining"
    planned: dict[str, Any] = {"recipe": name, "title": "Pretraining", "row": name, "stage": name, "base": name}
    planned |= {"final": False, "labelled_target": 0, "overrides": "", "sweep": None, "point": {}}
    return [
        Run(**planned, seed=read_yaml(spec)["seed"], **_read_folders(start, None, None, measured))
        for start in starts
        if (spec := located(start) / "spec.yaml").is_file()
    ]


def _read_folders(folder: Path, evaluation: Path | None, judged: Path | None, measured: bool) -> dict[str, Any]:
    """What there is of a run: the fields of `Run` that its folders, or the records of them, tell."""
    place = found(folder)
    evaluated_at = found(evaluation) if evaluation and place else None
    judged_at = found(judged) if judged else None
    if place is None:
        status = "unfinished" if folder.is_dir() else "missing"
    else:
        status = "finished" if evaluated_at else "not evaluated"
    marker: dict[str, Any] = read_json(place / MARKER) if place else {"id": "", "files": {}}
    # What was measured may be missing: a result can come from elsewhere without it.
    cost, env = (
        read_json(place / name) if measured and place and (place / name).is_file() else {}
        for name in ("cost.json", "env.json")
    )
    return {
        "folder": folder,
        "evaluation": evaluation,
        "judged": judged,
        "status": status,
        "id": marker["id"] + (f"+{evaluation.name}" if evaluation and evaluated_at else ""),
        "files": marker["files"],
        "cost": cost,
        "env": env,
        "spec": read_yaml(place / "spec.yaml") if place else {},
        "data": read_json(place / "result.json")["data"] if place else {},
        "metrics": read_json(evaluated_at / "metrics.json") if evaluated_at else {},
        "evaluation_spec": read_yaml(evaluated_at / "spec.yaml") if evaluated_at else {},
        "quality": read_json(judged_at / "quality.json") if judged_at else {},
        "place": place or folder,
        "evaluated_at": evaluated_at,
    }
