"""MLflow's own pages of a store that tracking filled, in a browser: the sweep stands there, and its runs compare."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.browser import Visit, visit
from support.fabricate import SWEEPS, fabricate

from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.figures.style import render
from udaseg.reports.figures.sweeps import ablation_figures
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables.sweeps import ablation_tables
from udaseg.reports.tables.writers import to_markdown
from udaseg.runs.files import write_bytes, write_text

pytestmark = pytest.mark.slow

PATIENCE = 300.0  # seconds; on an idle machine the server's start takes ten and so does a page's
GRID = SWEEPS["grid"]
KNOWN = ["404 (Not Found)"]  # the interface asks who is logged in; see `watched`


@dataclass(frozen=True)
class Server:
    """`mlflow ui` in the folder of a study that was tracked."""

    address: str

    def ask(self, endpoint: str, content: dict[str, Any]) -> Any:
        """Answer of the tracking server, waiting until it is up."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"{self.address}/api/2.0/mlflow/{endpoint}"
        request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                return json.load(opener.open(request, timeout=30))
            except OSError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.5)

    def runs(self) -> list[dict[str, Any]]:
        """All runs, their tags as a mapping."""
        runs = self.ask("runs/search", {"experiment_ids": ["1"], "max_results": 1000})["runs"]
        return [run["info"] | {"tags": {tag["key"]: tag["value"] for tag in run["data"]["tags"]}} for run in runs]

    def sweep(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The sweep's own run and its children."""
        (parent,) = [run for run in self.runs() if run["run_name"] == GRID.title]
        return parent, [run for run in self.runs() if run["tags"].get("mlflow.parentRunId") == parent["run_id"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What a user has: the report of the sweep, its tracking, and `mlflow ui` in its folder."""
    root = tmp_path_factory.mktemp("study")
    spec = fabricate(root, ("source_only", "dann"), seeds=(0,), iterations=60, pictures=1, sweeps=("grid",))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes for nothing here
    before = Path.cwd()
    os.chdir(root)
    try:
        report = read_report(spec)
        for table in ablation_tables(Comparisons(report)):
            write_text(report.output / "tables" / f"{table.name}.md", to_markdown(table))
        for name, (_, figure) in ablation_figures(Comparisons(report)).items():
            for kind, content in render(figure).items():
                write_bytes(report.output / "figures" / f"{name}.{kind}", content)
        code = (
            "import sys; from pathlib import Path; from udaseg.tracking.store import track;"
            " track(*map(Path, sys.argv[1:]))"
        )
        subprocess.run([sys.executable, "-c", code, str(spec), "note.json"], env=clean, check=True, timeout=600)
        assert json.loads(Path("note.json").read_text())["status"] == "sent"
    finally:
        os.chdir(before)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [str(Path(sys.executable).parent / "mlflow"), "ui", "--workers", "1", "--port", str(port)]
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=root, env=clean, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def watched(visit: Visit, address: str) -> list[str]:
    """Opens `address`; the list that becomes the paths of requests that fail."""
    failed: list[str] = []
    visit.page.on(
        "response",
        lambda answer: (
            failed.append(answer.url.partition("?")[0].rpartition("/mlflow/")[2]) if answer.status >= 400 else None
        ),
    )
    visit.page.set_default_timeout(1000 * PATIENCE)
    visit.page.goto(address)
    return failed


def test_the_store_holds_the_study_and_the_sweep(server: Server) -> None:
    parent, children = server.sweep()
    names = {run["run_name"] for run in server.runs()} - {run["run_name"] for run in children}
    assert names == {"pretraining seed=0", "source_only seed=0", "dann seed=0", GRID.title}
    assert len(children) == 9 and parent["status"] == "FINISHED"


def test_the_experiment_shows_the_sweep_and_below_it_its_runs(server: Server, tmp_path: Path) -> None:
    server.sweep()  # it is up
    with visit("about:blank", [server.address], size=(1600, 1000), ignore=KNOWN) as opened:
        failed = watched(opened, f"{server.address}/#/experiments/1/runs?workflowType=machine_learning")
        page = opened.page
        page.get_by_role("link", name=GRID.title).wait_for()
        page.get_by_role("link", name="source_only seed=0").wait_for()
        assert page.get_by_role("link", name="gamma=5.0, domain=0.05 seed=0").count() == 0
        cell = page.get_by_role("gridcell").filter(has=page.get_by_role("link", name=GRID.title))
        cell.get_by_role("button").first.click()
        page.get_by_role("link", name="gamma=5.0, domain=0.05 seed=0").wait_for()
        page.screenshot(path=tmp_path / "experiment.png")
        assert set(failed) <= {"users/current"}


def test_the_comparison_of_a_sweep_begins_with_what_was_swept(server: Server, tmp_path: Path) -> None:
    _, children = server.sweep()
    runs = quote(json.dumps([run["run_id"] for run in children]))
    with visit("about:blank", [server.address], size=(1600, 1000), ignore=KNOWN) as opened:
        failed = watched(opened, f"{server.address}/#/compare-runs?runs={runs}&experiments=[%221%22]")
        page = opened.page
        page.get_by_text("Comparing 9 Runs from 1 Experiment").wait_for()
        plot = page.locator("svg .parcoords")
        plot.first.wait_for()
        axes = plot.locator(".axis-title").all_text_contents()
        assert axes == ["domain", "gamma", "last/mIoU11"]
        for run in children:
            page.get_by_text(run["run_name"], exact=True).first.wait_for()
        page.screenshot(path=tmp_path / "comparison.png")
        assert set(failed) <= {"users/current"}


def test_the_sweeps_own_page_has_the_table(server: Server, tmp_path: Path) -> None:
    parent, _ = server.sweep()
    with visit("about:blank", [server.address], size=(1600, 1000), ignore=KNOWN) as opened:
        failed = watched(opened, f"{server.address}/#/experiments/1/runs/{parent['run_id']}")
        page = opened.page
        page.get_by_role("heading", name=GRID.title).wait_for()
        page.get_by_role("cell", name="gamma=5.0, domain=0.05").first.wait_for()
        page.screenshot(path=tmp_path / "sweep.png")
        assert set(failed) <= {"users/current"}
