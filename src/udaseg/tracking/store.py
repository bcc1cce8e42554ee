"""Sends finished runs to an MLflow store: a view of the run folders, never a source. Only this module imports mlflow.

One job per study sends everything, after its report: it migrates a new store once, where several writers would race,
and it can be repeated into another or an empty store with the same result. A store that is down is noted, not an error:
the next call sends what is missing. What was sent and is planned no longer stays where it is.
"""

import os
import re
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from udaseg.errors import UserError
from udaseg.reports.read.run_folders import read_report
from udaseg.runs.files import write_bytes, write_json
from udaseg.tracking.run_record import PLACE, Record, place
from udaseg.tracking.sweep_record import Family, make_records

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
METRICS, PARAMS = 1000, 100  # the most that MLflow takes in one call
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
PARENT = "mlflow.parentRunId"  # the tag that puts a run below another


def track(spec_path: Path, note: Path) -> None:
    """Send every finished run of the report spec at `spec_path` to the store, unless it is there already.

    The store is `MLFLOW_TRACKING_URI`, or mlflow.db in the working directory. `note` becomes
    {"status": "sent", "runs": finished runs of the study that the store holds} or {"status": "pending", "reason": …}.

    Raises:
        UserError: the spec or a finished run's folder cannot be read.
    """
    report = read_report(spec_path)
    records, families = make_records(report)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(STORE).absolute()}"
    try:
        probe(uri)
        send_all(uri, report.study, records, families)
    except Exception as error:  # whatever a store or its driver raises: it is told, and the study goes on without it
        reason = masked(f"{type(error).__name__}: {error}", uri)
        print(f"tracking: the runs are not in MLflow yet ({reason}); run the same command again later", file=sys.stderr)
        write_json(note, {"status": "pending", "reason": reason[:2000]})
        return
    runs = len(records) + sum(len(family.children) for family in families)
    write_json(note, {"status": "sent", "runs": runs})


def probe(uri: str) -> None:
    """Raise at once where MLflow would retry for minutes: a locked or unreadable database, an unreachable server."""
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


def send_all(uri: str, study: str, records: list[Record], families: list[Family]) -> None:
    """Send the runs that the study's experiment does not hold completely, and for a sweep what has changed."""
    import logging

    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise UserError(f"the experiment '{study}' was deleted in the store; restore it or remove it there for good")
    experiment_id = client.create_experiment(study) if experiment is None else experiment.experiment_id
    parents = {family.parent.place for family in families}
    runs = {record.place for record in [*records, *(child for family in families for child in family.children)]}
    held = {}
    for run in stored_runs(client, experiment_id):
        of = place(run.data.tags)
        if of in parents or (of in runs and "udaseg.complete" in run.data.tags):
            held[of] = run
        elif of in runs:  # a call that was killed halfway left it
            client.delete_run(run.info.run_id)
    for record in records:
        if record.place not in held:
            send(client, experiment_id, record)
    for family in families:
        send_family(client, experiment_id, family, held)


def send_family(client: "MlflowClient", experiment_id: str, family: Family, held: dict[tuple[str, ...], Any]) -> None:
    """Send what is missing of a sweep. A killed call leaves it without its digest, so the next one completes it."""
    parent = family.parent
    stored = held.get(parent.place)
    run_id = create(client, experiment_id, parent) if stored is None else stored.info.run_id
    for child in family.children:
        other = held.get(child.place)
        if other is None:
            send(client, experiment_id, child, run_id)
        elif other.data.tags.get(PARENT) != run_id:  # of a sweep that was deleted in the store
            client.set_tag(other.info.run_id, PARENT, run_id)
    if stored is None or stored.data.tags.get("udaseg.digest") != parent.digest:
        fill(client, run_id, parent)
        client.set_tag(run_id, "udaseg.digest", parent.digest)


def stored_runs(client: "MlflowClient", experiment_id: str) -> Iterator[Any]:
    """All runs of an experiment that are not deleted."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from list(page)
        token = page.token
        if not token:
            return


def send(client: "MlflowClient", experiment_id: str, record: Record, parent: str | None = None) -> None:
    """Send one run, as a child of the run `parent` of the store where that is given."""
    fill(client, create(client, experiment_id, record, parent), record)


def create(client: "MlflowClient", experiment_id: str, record: Record, parent: str | None = None) -> str:
    """Id of a new run in the store, which holds only what identifies it."""
    first = {name: record.tags[name] for name in PLACE if name in record.tags}
    if parent is not None:
        first[PARENT] = parent
    run = client.create_run(experiment_id, start_time=record.start, tags=first, run_name=record.name)
    return str(run.info.run_id)


def fill(client: "MlflowClient", run_id: str, record: Record) -> None:
    """Send all of a record. The tag `udaseg.complete` comes last, so that a half-sent run can be told."""
    from mlflow.entities import Metric, Param, RunTag

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
