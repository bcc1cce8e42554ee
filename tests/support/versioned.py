"""A project that git and DVC version, with a remote folder: for tests that go through `dvc`."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.project import ROOT, Project
from support.warm import warm_commands

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")


@dataclass(frozen=True)
class Versioned(Project):
    """Its one study is the default one, `demo`, so that `dvc repro` and a plain `snakemake` make it."""

    def call(self, *command: str, seconds: float = 600) -> tuple[int, str]:
        """Exit status and output of a command of the environment, as a user types it here; it starts warm."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(warm_commands()), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=seconds, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def succeed(self, *command: str) -> str:
        """The output of a command that must succeed."""
        status, output = self.call(*command)
        assert status == 0, f"{' '.join(command)}\n{output}{self.logs()}"
        return output

    def commit(self, message: str) -> None:
        self.succeed(*GIT, "add", "-A")
        self.succeed(*GIT, "commit", "-q", "-m", message)

    def logs(self) -> str:
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in sorted(self.folder.glob("logs/**/*.log")))

    def trained(self, work: Callable[[], object]) -> list[str]:
        """Methods of the trainings that were really executed during `work`, sorted: each writes its log."""
        before = self._times()
        work()
        return sorted(path.parent.name for path, time in self._times().items() if before.get(path) != time)

    def _times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.folder.glob("logs/results/*/*/*.log")}

    def lock(self) -> bytes:
        return (self.folder / "dvc.lock").read_bytes()

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))


def versioned_files(folder: Path) -> None:
    """Put what git has of DVC into a project's folder."""
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "workflow/claims.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
