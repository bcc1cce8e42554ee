"""Tracking against a real store: sent once, sent again into an empty store with the same result, never in the way."""

import json
import os
import shutil
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fabricate import fabricate
from support.faults import Fault, counted, forked

from udaseg.reports.read.run_folders import read_report
from udaseg.tracking import store as tracking
from udaseg.tracking.run_record import TAG, VALUE, Record, flattened
from udaseg.tracking.store import masked, track
from udaseg.tracking.sweep_record import Family, make_records

NOTE = Path("state/tracking/note.json")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of the person who runs the tests, and nothing that `track` sets stays behind."""
    for name in [*tracking.ENVIRONMENT, *(name for name in os.environ if name.startswith("MLFLOW_"))]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("original")
    spec = fabricate(root, recipes=("source_only", "dann"), seeds=(0,), iterations=100, pictures=1)
    return root, spec


@pytest.fixture
def study(original: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a small finished study as the working directory; the path of its spec."""
    shutil.copytree(original[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return original[1]


def stored(uri: str, study_name: str = "demo") -> dict[str, dict[str, Any]]:
    """Everything that a store holds of an experiment's runs, by run name, without its own ids."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study_name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    content = {}
    for run in runs:
        history = {
            name: [(m.value, m.step, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        artifacts = sorted(entry.path for entry in client.list_artifacts(run.info.run_id))
        content[run.info.run_name] = {
            "params": run.data.params,
            "metrics": history,
            "tags": run.data.tags,
            "time": (run.info.start_time, run.info.end_time, run.info.status),
            "artifacts": artifacts,
        }
    assert len(content) == len(runs)
    return content


def run_ids(uri: str) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    return {run.info.run_id for run in client.search_runs([experiment.experiment_id])}


def test_sends_once_finishes_what_is_half_sent_and_can_be_replayed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because a new store takes seconds to be made."""
    from mlflow import MlflowClient

    track(study, NOTE)
    assert json.loads(NOTE.read_text()) == {"status": "sent", "runs": 3}
    assert Path("mlflow.db").is_file()
    store = f"sqlite:///{Path('mlflow.db').absolute()}"
    first, ids = stored(store), run_ids(store)
    assert set(first) == {"pretraining seed=0", "source_only seed=0", "dann seed=0"}

    assert all(start <= end for start, end, _ in (run["time"] for run in first.values()))

    # What was sent is what the folders hold.
    entry = next(e for e in yaml.safe_load(study.read_text())["runs"] if e["recipe"] == "dann")
    dann = first["dann seed=0"]
    metrics = json.loads((Path(entry["evaluation"]) / "metrics.json").read_text())
    last = metrics["scores"]["last"]
    assert dann["metrics"]["last/mIoU11"][0][:2] == (last["sets"]["mIoU11"], last["iteration"])
    assert dann["metrics"]["last/iou/road"][0][0] == last["iou"]["road"]
    assert "last/iou/train" not in dann["metrics"]  # undefined
    lines = [json.loads(line) for line in (Path(entry["run"]) / "history.jsonl").read_text().splitlines()]
    terms = [(line["terms"]["seg"], line["iteration"]) for line in lines if "terms" in line]
    assert [point[:2] for point in dann["metrics"]["terms/seg"]] == terms
    assert dann["params"]["network.name"] == "small" and dann["params"]["recipe"] == "dann"
    assert dann["tags"]["mlflow.source.git.commit"] == "0123456789abcdef"
    assert dann["tags"]["udaseg.data.target"] == "7" * 64
    marker = json.loads((Path(entry["run"]) / "run.json").read_text())
    assert dann["tags"]["udaseg.sha256.model.safetensors"] == marker["files"]["model.safetensors"]
    assert dann["artifacts"] == ["cost.json", "env.json", "evaluate.yaml", "metrics.json", "pictures", "spec.yaml"]
    assert not list(Path("mlruns").rglob("*.safetensors"))

    # A second call sends nothing.
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "send", lambda *arguments: pytest.fail("sent again"))
        track(study, NOTE)
    assert json.loads(NOTE.read_text())["status"] == "sent"
    assert run_ids(store) == ids

    # A run that a killed call left half sent is sent anew; the others are left alone.
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    half = next(r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "dann seed=0")
    client.delete_tag(half.info.run_id, "udaseg.complete")
    track(study, NOTE)
    assert stored(store) == first
    assert len(ids & run_ids(store)) == 2 and half.info.run_id not in run_ids(store)

    # Into an empty store: the same again.
    other = f"sqlite:///{Path('other.db').absolute()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    track(study, NOTE)
    assert stored(other) == first


def test_a_call_that_dies_halfway_is_finished_by_the_next(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    records, _ = make_records(read_report(study))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        track(study, NOTE)
        assert json.loads(NOTE.read_text()) == {"status": "pending", "reason": "OSError: disk full"}
    monkeypatch.setattr(tracking, "PATIENCE", 0.3)
    half = Path("mlflow.db").read_bytes()
    for spoil, mend, reason in (
        (write_protect, write_allow, "readonly database"),
        (lock, sqlite3.Connection.close, "locked"),
    ):
        held = spoil(Path("mlflow.db"))
        track(study, NOTE)
        note = json.loads(NOTE.read_text())
        assert note["status"] == "pending" and reason in note["reason"]
        mend(held)
        assert Path("mlflow.db").read_bytes() == half
    track(study, NOTE)
    assert json.loads(NOTE.read_text()) == {"status": "sent", "runs": 3}
    content = stored(f"sqlite:///{Path('mlflow.db').absolute()}")
    assert {run["tags"]["udaseg.run"] for run in content.values()} == {r.tags["udaseg.run"] for r in records}
    assert all(run["tags"]["udaseg.complete"] == "yes" for run in content.values())


@pytest.mark.slow
def test_a_call_that_is_killed_anywhere_is_finished_by_the_next(study: Path) -> None:
    import mlflow  # noqa: F401  before the forks, none of which this process follows into the store

    folder, store = Path.cwd(), Path("mlflow.db")
    uri = f"sqlite:///{store.absolute()}"

    def sent() -> dict[str, Any]:
        """What the store holds after a call that nothing disturbs."""
        track(study, NOTE)
        return stored(uri)

    def kept(name: str) -> Any:
        end = forked(lambda: Path(name).write_text(json.dumps(sent())) * 0, folder)
        assert end.status == 0 and json.loads(NOTE.read_text()) == {"status": "sent", "runs": 3}, end.output
        return json.loads(Path(name).read_text())

    end = forked(lambda: tracking.send_all(uri, "demo", [], []), folder)  # makes the store, which takes seconds
    assert end.status == 0, end.output
    shutil.copy(store, "empty.db")
    points = counted(lambda: track(study, NOTE), folder)
    expected = kept("expected.json")

    # Every process opens the store anew, which takes seconds: the choice is another one each time.
    @settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.integers(1, points["line"]), min_size=2, max_size=2))
    def survived(lines: list[int]) -> None:
        NOTE.unlink()
        shutil.rmtree("mlruns")
        shutil.copy("empty.db", store)
        for number, line in enumerate(lines):
            end = forked(lambda: track(study, NOTE), folder, Fault("line", line))
            assert end.status == -9 or number > 0, end.output
        assert kept("survived.json") == expected

    survived()


def write_protect(database: Path) -> Path:
    """Make SQLite treat a database as read-only, whoever asks: its header tells of a newer way of writing."""
    content = bytearray(database.read_bytes())
    content[18] += 2
    database.write_bytes(content)
    return database


def write_allow(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[18] -= 2
    database.write_bytes(content)


def lock(database: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(database)
    holder.execute("BEGIN EXCLUSIVE")
    return holder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "store", ["refused", "locked", "read-only", "unreadable", "a folder", "no folder", "database refused"]
)
def test_a_store_that_is_down_leaves_a_note(
    study: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    holder = None
    if store == "refused":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s3cr%40t@127.0.0.1:{free_port()}")
    elif store == "database refused":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://bob:s3cr%40t@127.0.0.1:{free_port()}/runs")
    elif store == "locked":
        holder = lock(Path("mlflow.db"))
    elif store == "read-only":
        sqlite3.connect("mlflow.db").execute("CREATE TABLE any (thing)").connection.close()
        write_protect(Path("mlflow.db"))
    elif store == "a folder":
        Path("mlflow.db").mkdir()
    elif store == "unreadable":
        Path("mlflow.db").write_text("this is no database, it only has the name of one\n" * 100)
    else:
        Path("file").touch()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///file/mlflow.db")
    started = time.monotonic()
    track(study, NOTE)
    assert time.monotonic() - started < 30
    note = json.loads(NOTE.read_text())
    assert note["status"] == "pending" and note["reason"]
    shown = NOTE.read_text() + "".join(capsys.readouterr())
    assert "s3cr" not in shown and "bob" not in shown
    if holder is not None:
        holder.close()


def test_runs_that_are_not_finished_are_not_sent(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Record] = []

    def send_all(uri: str, name: str, records: list[Record], families: list[Family]) -> None:
        sent.extend(records)

    monkeypatch.setattr(tracking, "send_all", send_all)
    entries = yaml.safe_load(study.read_text())["runs"]
    (Path(entries[0]["run"]) / "run.json").unlink()
    (Path(entries[1]["evaluation"]) / "run.json").unlink()
    track(study, NOTE)
    assert {record.name for record in sent} == {"pretraining seed=0"}
    assert json.loads(NOTE.read_text()) == {"status": "sent", "runs": 1}


def test_limits_and_names_of_mlflow_are_kept(study: Path) -> None:
    from mlflow.utils.validation import (
        MAX_METRICS_PER_BATCH,
        MAX_PARAM_VAL_LENGTH,
        MAX_PARAMS_TAGS_PER_BATCH,
        MAX_TAG_VAL_LENGTH,
        _validate_metric_name,
        _validate_param_name,
        _validate_tag_name,
    )

    assert tracking.METRICS <= MAX_METRICS_PER_BATCH and tracking.PARAMS <= MAX_PARAMS_TAGS_PER_BATCH
    assert VALUE <= MAX_PARAM_VAL_LENGTH and TAG <= MAX_TAG_VAL_LENGTH
    for record in make_records(read_report(study))[0]:
        for name in record.params:
            _validate_param_name(name)
        for name, *_ in record.metrics:
            _validate_metric_name(name)
        for name in record.tags:
            _validate_tag_name(name)


def test_flattening_keeps_class_maps_whole() -> None:
    content = {
        "a": {"b": 1, "c": None},
        "classes": ["x", "y"],
        "map": {"#804080": "road"},
        "text": "as it is",
        "on": True,
    }
    assert dict(flattened(content)) == {
        "a.b": "1",
        "a.c": "null",
        "classes": '["x", "y"]',
        "map": '{"#804080": "road"}',
        "text": "as it is",
        "on": "true",
    }


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokentoken")
    uri = "https://bob:p%40ss@store.example/path?password=hidden"
    text = masked(f"cannot reach {uri} (p@ss, p%40ss), Bearer tokentoken", uri)
    assert text == "cannot reach https://***@store.example/path?password=*** (***, ***), Bearer ***"
