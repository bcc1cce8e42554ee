"""Sends finished runs to an MLflow store. A view of the run folders, never a source; the only importer of mlflow.

One job per study sends everything, after training: it migrates a new store once, where several writers would race, and
it can be repeated into another or an empty store with the same result. A store that is down is noted, not an error:
the next call sends what is missing.
"""

import io
import json
import os
import re
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from udaseg.data.classes import colourise
from udaseg.errors import UserError
from udaseg.reports.collect import Report, Run, history_points, read_report
from udaseg.reports.protocols import protocol_text
from udaseg.runs import write_bytes, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = "mlflow.db"  # the SQLite file that `mlflow ui` opens in the working directory when it is told nothing
ENVIRONMENT = {  # laid under what the user has set
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the URL may hold a password
}
PATIENCE = 5.0  # seconds for a locked database file or a database server that does not answer
KEY, VALUE, TAG = 250, 6000, 5000  # the longest that MLflow takes
METRICS, PARAMS = 1000, 100  # the most that MLflow takes in one call
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
PICTURE = 512  # pixels of a logged picture's longer side


@dataclass(frozen=True)
class Record:
    """Everything that is sent of one run; a pure function of its folder."""

    key: str
    name: str
    start: int  # milliseconds since 1970, as the next one
    end: int
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]  # name, value, milliseconds, iteration
    tags: dict[str, str]
    artifacts: dict[str, bytes]


def track(spec_path: Path, note: Path) -> None:
    """Send every finished run of the report spec at `spec_path` to the store, unless it is there already.

    The store is `MLFLOW_TRACKING_URI`, or mlflow.db in the working directory. `note` becomes
    {"status": "sent", "runs": finished runs of the study that the store holds} or {"status": "pending", "reason": …}.

    Raises:
        UserError: the spec or a finished run's folder cannot be read.
    """
    report = read_report(spec_path)
    runs = report.each_once()
    finished = [run for run in runs if run.trained and (run.metrics or not run.evaluation)]
    records = {record.key: record for record in (make_record(report, run) for run in finished)}
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(STORE).absolute()}"
    try:
        probe(uri)
        send_all(uri, report.study, records)
    except Exception as error:  # whatever a store or its driver raises: it is told, and the study goes on without it
        reason = masked(f"{type(error).__name__}: {error}", uri)
        print(f"tracking: the runs are not in MLflow yet ({reason}); run the same command again later", file=sys.stderr)
        write_json(note, {"status": "pending", "reason": reason[:2000]})
        return
    write_json(note, {"status": "sent", "runs": len(records)})


def probe(uri: str) -> None:
    """Raise at once where MLflow would try for minutes: a locked or unreadable database file, a server that is away."""
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    if scheme == "sqlite":
        path = Path(parts.path.removeprefix("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=PATIENCE)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
        finally:
            database.close()
    elif parts.hostname and scheme in PORTS:
        socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), timeout=PATIENCE).close()


def masked(text: str, uri: str) -> str:
    """`text` without user names, passwords and tokens."""
    parts = urlsplit(uri)
    secrets = [parts.password, unquote(parts.password or "")]
    secrets += [os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("PASSWORD", "TOKEN")]
    text = re.sub(r"//[^/\s]*@", "//***@", text)
    text = re.sub(r"(?i)(password|token|secret)=[^&\s'\"]+", r"\1=***", text)
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def send_all(uri: str, study: str, records: dict[str, Record]) -> None:
    """Send the records that the study's experiment does not hold whole."""
    import logging

    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise UserError(f"the experiment '{study}' was deleted in the store; restore it or remove it there for good")
    experiment_id = client.create_experiment(study) if experiment is None else experiment.experiment_id
    whole = set()
    for run in stored_runs(client, experiment_id):
        key, complete = run.data.tags.get("udaseg.run"), "udaseg.complete" in run.data.tags
        if complete:
            whole.add(key)
        elif key in records:  # a call that was killed halfway left it
            client.delete_run(run.info.run_id)
    for key, record in records.items():
        if key not in whole:
            send(client, experiment_id, record)


def stored_runs(client: "MlflowClient", experiment_id: str) -> Iterator[Any]:
    """All runs of an experiment that are not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from list(page)
        token = page.token
        if not token:
            return


def send(client: "MlflowClient", experiment_id: str, record: Record) -> None:
    """Send one record. Its tag `udaseg.complete` comes last, so that a half-sent run can be told."""
    from mlflow.entities import Metric, Param, RunTag

    first = {"udaseg.run": record.key}
    run_id = client.create_run(experiment_id, start_time=record.start, tags=first, run_name=record.name).info.run_id
    params = [Param(key, value) for key, value in record.params.items()]
    tags = [RunTag(key, value) for key, value in record.tags.items()]
    metrics = [Metric(key, value, time, step) for key, value, time, step in record.metrics]
    for start in range(0, len(params), PARAMS):
        client.log_batch(run_id, params=params[start : start + PARAMS])
    for start in range(0, len(tags), PARAMS):
        client.log_batch(run_id, tags=tags[start : start + PARAMS])
    for start in range(0, len(metrics), METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in record.artifacts.items():
            write_bytes(Path(folder) / name, content)
        client.log_artifacts(run_id, folder)
    client.set_terminated(run_id, "FINISHED", record.end)
    client.set_tag(run_id, "udaseg.complete", "yes")


def make_record(report: Report, run: Run) -> Record:
    """What is sent of a finished run."""
    finished = datetime.fromisoformat(run.cost["finished"])
    end = int((finished if finished.tzinfo else finished.replace(tzinfo=UTC)).timestamp() * 1000)
    start = end - int(1000 * run.cost["seconds"])
    pace = 1000 * run.cost["seconds_per_iteration"]  # the history has no clock in it
    metrics = [
        (f"{HISTORY[kind]}/{name}"[:KEY], value, start + int(pace * iteration), iteration)
        for iteration, kind, name, value in (point.values() for point in history_points(run))
        if not np.isnan(value)
    ]
    metrics += [(name, value, end, step) for name, value, step in final_metrics(run)]
    recipe = {"recipe": run.recipe, "stage": run.stage, "overrides": run.overrides}
    params = recipe | dict(flattened(run.spec)) | dict(flattened(run.evaluation_spec, "evaluate."))
    stage = "" if run.final or run.stage == run.recipe else f"/{run.stage}"
    return Record(
        key=run.id,
        name=f"{run.recipe}{stage} seed={run.seed}",
        start=start,
        end=end,
        params={key[:KEY]: value[:VALUE] for key, value in params.items()},
        metrics=metrics,
        tags={key: value[:TAG] for key, value in make_tags(report, run).items() if value},
        artifacts=make_artifacts(report, run),
    )


HISTORY = {"term": "terms", "log": "logs", "lr": "lr", "monitor": "monitor", "iou": "monitor_iou"}  # kind -> group


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
            yield re.sub(r"[^\w\-. /]", "_", prefix + str(key)), value if isinstance(value, str) else json.dumps(value)


def make_tags(report: Report, run: Run) -> dict[str, str]:
    """Where the run belongs, what code and data made it, and the words that the user interface shows."""
    tags = {
        "mlflow.source.name": f"udaseg train {run.folder}/spec.yaml",
        "mlflow.source.git.commit": str(run.env.get("commit") or ""),
        "mlflow.note.content": description(report, run),
        "udaseg.study": report.study,
        "udaseg.recipe": run.recipe,
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
    if not run.metrics:
        return f"{run.title}, stage {run.stage}, seed {run.seed}; not evaluated."
    metric = report.metric(run.label, report.headline)
    score = run.metrics["scores"]["last"]["sets"][metric]
    value = "undefined" if score is None else f"{100 * score:.1f} %"
    protocol = protocol_text(run.metrics["protocol"], report)
    who = f"{run.title}, stage {run.stage}, seed {run.seed}"
    return f"{who}: **{metric} {value}** (last iteration).\n\n{protocol}."


def make_artifacts(report: Report, run: Run) -> dict[str, bytes]:
    """Path → bytes of the small files that go along: specs, scores, and the predictions in colour. No checkpoints."""
    files = {name: (run.folder / name).read_bytes() for name in ("spec.yaml", "cost.json", "env.json")}
    if run.metrics and run.evaluation is not None:
        files["metrics.json"] = (run.evaluation / "metrics.json").read_bytes()
        files["evaluate.yaml"] = (run.evaluation / "spec.yaml").read_bytes()
        for path in sorted((run.evaluation / "pictures").glob("*.png")):
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
