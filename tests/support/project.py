"""A project folder for tests: the real parameters and rules, and a study of our own that takes seconds."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from support.warm import warm_commands

from udaseg.runs.folder import locked
from udaseg.study.load import load_study
from udaseg.study.overlay import overlay
from udaseg.study.rows import Study

ROOT = Path(__file__).parents[2]
SNAKEMAKE = ("snakemake", "--cores", "2", "--config", "study=tiny")
HIDDEN = ("MLFLOW_TRACKING_URI", "SNAKEMAKE_PROFILE", "SLURM_JOB_ID")  # of whoever runs the tests
TINY: dict[str, Any] = {
    "seeds": [0],
    "run": ["source_only", "dann"],
    "datasets": {
        "toytown_source": {"size": [48, 96], "counts": {"train": 4}},
        "toytown_target": {"size": [48, 96], "counts": {"train": 4, "val": 2, "test": 2}},
        "objects": {"size": [32, 32], "counts": {"train": 4}},
    },
    "task": {"source": {"size": [32, 64]}, "target": {"size": [32, 64]}},
    "pretrain": {"size": [32, 32], "train": {"iterations": 2, "source": {"batch": 2, "crop": [32, 32]}}},
    "optim": {"warmup_iterations": 1},
    "train": {
        "iterations": 4, "source": {"batch": 2, "crop": [32, 32]}, "target": {"batch": 2, "crop": [32, 32]},
        "log_every": 1, "monitor_every": 2, "checkpoint_every": 2,
    },
    "evaluate": {"pictures": 1},
}  # fmt: skip


def write_study(folder: Path, over: dict[str, Any] | str, study: str = "tiny") -> None:
    """Write a study beside the real parameters. A text is written as it is."""
    path = folder / "workflow" / "studies" / f"{study}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(over if isinstance(over, str) else yaml.safe_dump(over, sort_keys=False))
    if not (folder / "params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", folder)
        for name in ("methods.yaml", "recipes.yaml", "sweeps.yaml"):
            shutil.copy(ROOT / "workflow" / name, folder / "workflow")


def load(folder: Path, over: dict[str, Any] | str) -> Study:
    """The study that lays `over` upon the real parameters."""
    write_study(folder, over)
    return load_study(folder / "params.yaml", "tiny")


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny study with changes laid upon it."""
    return overlay(TINY, changes)


@dataclass(frozen=True)
class Project:
    """A whole project in a folder of its own: workflow, parameters and a copy of the source, which a test may edit."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, over: dict[str, Any]) -> Self:
        """A project whose one study is `over`."""
        shutil.copy(ROOT / "Snakefile", folder)
        for name in ("workflow/rules", "workflow/report", "profiles", "src/udaseg"):
            shutil.copytree(ROOT / name, folder / name)
        project = cls(folder)
        project.study(over)
        return project

    def study(self, over: dict[str, Any]) -> None:
        write_study(self.folder, over)

    def environment(self, commands: Path) -> dict[str, str]:
        """For commands of a folder, on this copy of the source and without GPUs."""
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        made = os.environ | {"PATH": path, "PYTHONPATH": str(self.folder / "src"), "CUDA_VISIBLE_DEVICES": ""}
        return {name: value for name, value in made.items() if name not in HIDDEN}

    def start(self, *command: str, commands: Path = Path(sys.executable).parent) -> "subprocess.Popen[str]":
        """Start `python -m COMMAND…` here, in a process group of its own."""
        return subprocess.Popen(
            [commands / "python", "-m", *command],
            cwd=self.folder, env=self.environment(commands), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *command: str, seconds: float = 240) -> tuple[int, str]:
        """Exit status and output of `python -m COMMAND…`, which starts warm."""
        process = self.start(*command, commands=warm_commands())
        try:
            output, _ = process.communicate(timeout=seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, output

    def snakemake(self, *options: str, seconds: float = 240) -> tuple[int, str]:
        return self.run(*SNAKEMAKE, *options, seconds=seconds)

    def todo(self) -> dict[str, int]:
        """How many jobs of each rule a dry run wants to do, without the last one, `all`."""
        status, output = self.snakemake("-n")
        assert status == 0, output
        stats = output.partition("Job stats:")[2].partition("total")[0]
        counts = dict(re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE))
        assert counts or "Nothing to be done" in output, output
        return {rule: int(count) for rule, count in counts.items() if rule != "all"}

    def specs(self, kind: str, part: str) -> list[Path]:
        """Specs of one kind of job (results, data …) whose path has `part` in it."""
        return sorted(
            path
            for path in (self.folder / "state" / "specs" / kind).rglob("*.yaml")
            if part in str(path) and not path.name.startswith("evaluate-")
        )


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all test processes that run side by side: they must leave it as it is."""
    root = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, done = root / name, root / f"{name}.done"
    with locked(root / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def finished_study(factory: pytest.TempPathFactory, over: dict[str, Any]) -> Project:
    """A project whose study nobody interrupted, made once (see `made_once`)."""

    def make(folder: Path) -> None:
        project = Project.create(folder, over)
        status, output = project.snakemake(seconds=600)
        logs = "\n".join(f"--- {path}\n{path.read_text()}" for path in sorted(folder.glob("logs/**/*.log")))
        assert status == 0, output + logs

    digest = hashlib.sha256(json.dumps(over, sort_keys=True).encode()).hexdigest()[:8]
    return Project(made_once(factory, f"study-{digest}", make))


def contents(folder: Path) -> dict[str, bytes]:
    """What must not differ between two runs of one spec: everything but cost and environment."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("cost.json", "env.json", "run.json")
    }


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again; AssertionError when it is not so within four minutes."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
