"""What is sent to MLflow for a run: a pure function of its folder, which does not import mlflow."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from udaseg.data.datasets.classes import colourise
from udaseg.reports.read.history import history_points
from udaseg.reports.read.protocols import protocol_text
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run
from udaseg.runs.folder import MARKER, MEASURED
from udaseg.runs.records import RESULTS

KEY, VALUE, TAG = 250, 6000, 5000  # the longest that MLflow takes
PICTURE = 512  # pixels of a logged picture's longer side
PLACE = ("udaseg.run", "udaseg.sweep", "udaseg.point")  # tags that say what a run in the store is of
HISTORY = {"term": "terms", "log": "logs", "lr": "lr", "monitor": "monitor", "iou": "monitor_iou"}  # kind -> group


@dataclass(frozen=True)
class Record:
    """Everything that is sent for a run, or for a sweep, which in the store is a run with others below it."""

    name: str
    start: int  # milliseconds since 1970, as the next one
    end: int
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]  # name, value, milliseconds, iteration
    tags: dict[str, str]
    artifacts: dict[str, bytes]

    @property
    def place(self) -> tuple[str, ...]:
        return place(self.tags)

    @property
    def digest(self) -> str:
        """Hash of what can differ when the record is made again: tags, artifacts and end."""
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self.artifacts.items()}
        return hashlib.sha256(json.dumps([self.end, self.tags, files], sort_keys=True).encode()).hexdigest()


def place(tags: Mapping[str, str]) -> tuple[str, ...]:
    """What identifies a run in the store: run, sweep and point, "" where there is none. It is sent once."""
    return tuple(tags.get(name, "") for name in PLACE)


def is_finished(run: Run) -> bool:
    """Whether it is trained and, where that is planned, evaluated."""
    return run.trained and bool(run.metrics or not run.evaluation)


def make_record(report: Report, run: Run) -> Record:
    """What is sent for a finished run. An earlier stage of a point has the name of the recipe that the point modifies.

    Folders of runs are no parameters: a comparison would show them as such. They are in tags and in spec.yaml.
    """
    start, end, pace = _times(run)
    headline = f"last/{report.rows[run.row].headline}"
    scores = sorted(final_metrics(run), key=lambda score: score[0] != headline)  # the interface begins with the first
    metrics = [(name, value, end, step) for name, value, step in scores]
    metrics += [
        (f"{HISTORY[kind]}/{name}"[:KEY], value, start + int(pace * iteration), iteration)
        for iteration, kind, name, value in (point.values() for point in history_points(run))
        if not np.isnan(value)
    ]
    recipe = {"recipe": run.base, "stage": run.stage, "overrides": run.overrides}
    params = recipe | dict(flattened(run.spec)) | dict(flattened(run.evaluation_spec, "evaluate."))
    stage = "" if run.final or run.stage == run.base else f"/{run.stage}"
    return Record(
        name=f"{run.base}{stage} seed={run.seed}",
        start=start,
        end=end,
        params={key[:KEY]: value[:VALUE] for key, value in params.items() if not value.startswith(f"{RESULTS}/")},
        metrics=metrics,
        tags={key: value[:TAG] for key, value in make_tags(report, run).items() if value},
        artifacts=make_artifacts(report, run),
    )


def _times(run: Run) -> tuple[int, int, float]:
    """Start and end in milliseconds since 1970, and milliseconds an iteration: the history has no clock in it.

    A run that came from elsewhere, without its cost, is shown as if it had been made at the moment when it came.
    """
    if not run.cost:
        end = int((run.place / MARKER).stat().st_mtime * 1000)
        return end, end, 0.0
    finished = datetime.fromisoformat(run.cost["finished"])
    end = int((finished if finished.tzinfo else finished.replace(tzinfo=UTC)).timestamp() * 1000)
    return end - int(1000 * run.cost["seconds"]), end, 1000 * run.cost["seconds_per_iteration"]


def final_metrics(run: Run) -> Iterator[tuple[str, float, int]]:
    """Name, value and iteration of the scores (fractions) of the last and the best checkpoint, and of the cost."""
    for which, score in run.metrics.get("scores", {}).items():
        if score is None:
            continue
        values = score["sets"] | {"pixel_accuracy": score["pixel_accuracy"], "monitor": score["monitor"]}
        values |= {f"iou/{name}": value for name, value in score["iou"].items()}
        for name, value in values.items():
            if value is not None:  # undefined: the class is neither there nor predicted
                yield f"{which}/{name}"[:KEY], value, score["iteration"]
    for name in ("seconds", "seconds_per_iteration", "peak_memory_mib"):
        if run.cost.get(name) is not None:
            yield f"cost/{name}", run.cost[name], run.cost["iterations"]


def flattened(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested keys joined by dots. Lists, and mappings whose keys are no names (raw class ids), become JSON text."""
    for key, value in content.items():
        if isinstance(value, dict) and value and all(str(name).isidentifier() for name in value):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield written(prefix + str(key)), value if isinstance(value, str) else json.dumps(value)


def written(name: str) -> str:
    """A parameter's name, restricted to the characters that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)


def make_tags(report: Report, run: Run) -> dict[str, str]:
    """The run's place in the study, its code and data, and the text that the user interface shows."""
    tags = {
        "mlflow.source.name": f"udaseg train {run.folder}/spec.yaml",
        "mlflow.source.git.commit": str(run.env.get("commit") or ""),
        "mlflow.note.content": description(report, run),
        "udaseg.run": run.id,
        "udaseg.study": report.study,
        "udaseg.recipe": run.base,
        "udaseg.method": str(run.spec.get("method", "")),
        "udaseg.stage": run.stage,
        "udaseg.final": "yes" if run.final else "no",
        "udaseg.overrides": run.overrides,
        "udaseg.seed": str(run.seed),
        "udaseg.folder": str(run.folder),
        "udaseg.dirty": str(run.env.get("dirty", "")).lower(),
        "udaseg.code": str(run.env.get("code") or run.spec.get("code", "")),
    }
    for name, digest in run.files.items():
        if name.endswith(".safetensors"):
            tags[f"udaseg.sha256.{name}"] = digest
    return tags | {f"udaseg.data.{role}": digest for role, digest in run.data.items()}


def description(report: Report, run: Run) -> str:
    """The run's note in the user interface (Markdown): its result and how it was scored."""
    title = run.title if run.sweep is None or run.final else run.base
    who = f"{title}, stage {run.stage}, seed {run.seed}"
    if not run.metrics:
        return f"{who}; not evaluated."
    metric = report.rows[run.row].headline
    score = run.metrics["scores"]["last"]["sets"][metric]
    value = "undefined" if score is None else f"{100 * score:.1f} %"
    return f"{who}: **{metric} {value}** (last iteration).\n\n{protocol_text(run.metrics['protocol'], report)}."


def make_artifacts(report: Report, run: Run) -> dict[str, bytes]:
    """Path → bytes of the small files that are sent: specs, scores, and the predictions in colour. No checkpoints."""
    names = ["spec.yaml", *(name for name in MEASURED if (run.place / name).is_file())]
    files = {name: (run.place / name).read_bytes() for name in names}
    if run.metrics and run.evaluated_at is not None:
        files["metrics.json"] = (run.evaluated_at / "metrics.json").read_bytes()
        files["evaluate.yaml"] = (run.evaluated_at / "spec.yaml").read_bytes()
        for path in sorted((run.evaluated_at / "pictures").glob("*.png")):
            files[f"pictures/{path.name}"] = coloured(path, report.classes)
    return files


def coloured(path: Path, classes: list[str]) -> bytes:
    """A small PNG in the classes' colours of the label picture at `path`."""
    with Image.open(path) as labels:
        picture = Image.fromarray(colourise(np.asarray(labels), classes))
    picture.thumbnail((PICTURE, PICTURE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
