"""What is sent to MLflow for a study with sweeps: each sweep is a run, with the runs of its points below it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run
from udaseg.reports.tables.sweeps import PREFIX
from udaseg.runs.spec import ReportSweep, TrainSpec
from udaseg.tracking.run_record import KEY, TAG, VALUE, Record, is_finished, make_record, written


@dataclass(frozen=True)
class Family:
    """A sweep and its runs."""

    parent: Record
    children: list[Record]


def make_records(report: Report) -> tuple[list[Record], list[Family]]:
    """What is sent for a study's finished runs: those that stand alone, and the sweeps that have any.

    A final run of a sweep's point is a child of the sweep, in each of the sweeps and points that it is of. Those of the
    study's own recipes and all earlier stages stand alone, each once.
    """
    alone = replace(report, runs=[run for run in report.runs if run.sweep is None or not run.final]).each_once()
    families = []
    for sweep in report.sweeps:
        short = short_names(report, sweep.name)
        runs = [run for row in sweep.points for run in report.rows[row].final.runs]
        children = [child_record(report, run, sweep, short) for run in runs if is_finished(run)]
        if children:
            families.append(Family(sweep_record(report, sweep, short, children, len(runs)), children))
    return [make_record(report, run) for run in alone if is_finished(run)], families


def child_record(report: Report, run: Run, sweep: ReportSweep, short: Mapping[str, str]) -> Record:
    """What is sent for a finished run of a sweep; the swept parameters have short names, for MLflow's comparisons.

    Args:
        report: of the study.
        run: the final one of a point and seed.
        sweep: of that point. Those of a list of points have names that say more than the values of the parameters.
        short: the swept parameters and their names, in the place of those that they have in all runs.
    """
    record, point = make_record(report, run), sweep.points[run.row]
    values = {name: value for path, name in short.items() if (value := swept_value(report, run, path)) is not None}
    twice = {"overrides", *(path.removeprefix(f"{run.stage}.") for path in short)}
    params = {name: value for name, value in record.params.items() if name not in twice}
    params |= {name: comparable(value)[:VALUE] for name, value in values.items()}
    return replace(
        record,
        name=f"{point} seed={run.seed}"[:KEY],
        params=params | ({} if sweep.over else {"point": point}),
        tags=record.tags | {"udaseg.sweep": str(run.sweep), "udaseg.point": point},
    )


def sweep_record(
    report: Report, sweep: ReportSweep, short: Mapping[str, str], children: list[Record], planned: int
) -> Record:
    """What is sent for a sweep itself: its table and figures. No params, because MLflow lets none of them change.

    Args:
        report: of the study.
        sweep: one of its sweeps.
        short: the swept parameters and their names.
        children: of the runs that are finished, at least one.
        planned: how many runs it has.
    """
    files = {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in ("tables", "figures")
        for path in sorted((report.output / kind).glob(f"{PREFIX}{sweep.name}.*"))
    }
    table = files.get(f"tables/{PREFIX}{sweep.name}.md", b"").decode()
    missing = "" if len(children) == planned else f"\n\nOf {planned} runs {len(children)} are finished."
    words = f"Swept: {', '.join(f'`{name}` ({path})' for path, name in short.items())}.{missing}"
    return Record(
        name=sweep.title[:KEY],
        start=min(child.start for child in children),
        end=max(child.end for child in children),
        params={},
        metrics=[],
        tags={
            "mlflow.note.content": whole_lines(f"{words}\n\n{table}", TAG),
            "udaseg.study": report.study,
            "udaseg.sweep": sweep.name,
            "udaseg.recipe": sweep.recipe,
        },
        artifacts=files,
    )


def short_names(report: Report, sweep: str) -> dict[str, str]:
    """The parameters of a sweep and what they are called in the store: the last part, or all where it is taken."""
    paths = list(dict.fromkeys(path for run in report.runs if run.sweep == sweep for path in run.point))
    ends = [path.rpartition(".")[2] for path in paths]
    taken = {*TrainSpec.model_fields, "recipe", "stage", "overrides", "point"}
    names = (end if ends.count(end) == 1 and end not in taken else path for path, end in zip(paths, ends, strict=True))
    return {path: written(name)[:KEY] for path, name in zip(paths, names, strict=True)}


def swept_value(report: Report, run: Run, path: str) -> Any:
    """A parameter's value in a run of a point, whether the point names it or not; None if the recipe lacks it."""
    stage, *keys = path.split(".")
    if path in run.point or keys[0] == "init":  # of which a spec has folders
        return run.point.get(path)
    runs = report.rows[run.row].stages[stage].runs if stage in report.rows[run.row].stages else ()
    used = next((other for other in runs if other.seed == run.seed), None)
    value: Any = used.spec if used else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def comparable(value: Any) -> str:
    """A value as MLflow's charts need it: a number where it is one, and for a square size its side."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and value[0] == value[1]:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value)


def whole_lines(text: str, most: int) -> str:
    """As many of the first lines as fit in `most` characters."""
    return text if len(text) <= most else text[: most + 1].rpartition("\n")[0][:most]
