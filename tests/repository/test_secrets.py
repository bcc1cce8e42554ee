"""Credentials stay in the environment: a run, its report and its tracking write none of them anywhere."""

import os
from pathlib import Path

import pytest
from support.fabricate import fabricate
from support.tiny import objects_spec, prepare_objects

from udaseg.cli.main import main
from udaseg.data.archives.download import download
from udaseg.errors import UserError
from udaseg.jobs.job import code_of
from udaseg.runs.files import write_yaml
from udaseg.runs.folder import is_whole
from udaseg.tracking import store as tracking

pytestmark = pytest.mark.slow

SECRET = "s3cr3t0fth3t3st"
NOWHERE = f"http://bob:{SECRET}@127.0.0.1:9/"  # port 9 discards, and nobody listens there
NAMES = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_ACCESS_KEY_ID"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "GITHUB_TOKEN"),
)


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, secrets in the environment, and nothing that tracking sets stays behind."""
    monkeypatch.chdir(tmp_path)
    for name in [*tracking.ENVIRONMENT, *(name for name in os.environ if name.startswith("MLFLOW_"))]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)


def leaks() -> list[str]:
    """Files here that hold the secret, by name or content."""
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]


def test_a_leak_is_seen() -> None:
    Path("log").write_text(f"as {SECRET}")
    assert leaks() == ["log"]


def test_a_run_writes_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    data = prepare_objects(Path(), {"train": 4})
    spec = objects_spec(data, None, folder="results/objects/source_only/seed=0-0123456789", train={"iterations": 2})
    write_yaml(Path("spec.yaml"), spec.model_copy(update={"code": code_of(spec)}).model_dump(mode="json"))
    assert main(["train", "spec.yaml"]) == 0
    assert is_whole(Path(spec.folder)) and (Path(spec.folder) / "env.json").is_file()
    assert leaks() == [] and SECRET not in "".join(capfd.readouterr())


def test_report_and_tracking_write_no_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = str(fabricate(Path(), ("source_only", "oracle"), seeds=(0,), iterations=60, pictures=1))
    assert main(["report", spec]) == 0
    assert main(["track", spec]) == 0
    assert Path("mlflow.db").is_file() and Path("reports/demo/index.html").is_file()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for uri in (NOWHERE, NOWHERE.replace("http", "postgresql", 1)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(["track", spec]) == 0
    captured = "".join(capfd.readouterr())
    assert captured.count("not in MLflow yet") == 2
    assert leaks() == [] and SECRET not in captured and "bob" not in captured


def test_a_download_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setenv("no_proxy", "")
    for address in ("http://host.invalid/data.zip", "https://host.invalid/data.zip"):
        with pytest.raises(UserError, match=r"download of .*/data\.zip: .*refused") as caught:
            download(address, Path("downloads/data.zip"), None, attempts=1)
        assert SECRET not in str(caught.value)
