"""What starts warm does as the same command that does not: its streams, folder, environment, status and end."""

import os
import subprocess
from pathlib import Path

import pytest
from support.project import wait_until
from support.warm import warm_commands

TELL = """
import os, sys
def main():
    print(os.getcwd(), os.environ["HERE"], os.environ.get("PATH"), sys.argv[1:], sys.executable, sys.stdin.read())
    print("and", file=sys.stderr)
    sys.exit({"a": "told", "b": 3, "c": None}[sys.argv[1]])
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tell.py").write_text(TELL)
    (tmp_path / "lib" / "wait.py").write_text(
        "import os, pathlib, time\npathlib.Path('id').write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    return tmp_path


def start(folder: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [warm_commands() / "python", *command],
        cwd=folder, env={"HERE": "x", "PYTHONPATH": str(folder / "lib")}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(("argument", "status", "said"), [("a", 1, "told\n"), ("b", 3, ""), ("c", 0, "")])
def test_a_command_has_what_it_was_started_with_and_ends_as_it_does(
    module: Path, argument: str, status: int, said: str
) -> None:
    process = start(module, "-m", "tell", argument, "a b")
    printed, errors = process.communicate("read", timeout=60)
    executable = warm_commands() / "python"
    assert printed == f"{module} x None {[argument, 'a b']} {executable} read\n"
    assert (process.returncode, errors) == (status, f"and\n{said}")


def test_other_ways_to_start_python_are_left_alone(module: Path) -> None:
    process = start(module, "-c", "import sys; print(len(sys.modules) < 200)")
    assert process.communicate(timeout=60)[0] == "True\n"


def test_whoever_kills_a_command_kills_what_it_does(module: Path) -> None:
    process, told = start(module, "-m", "wait"), module / "id"
    wait_until(lambda: told.is_file() and told.read_text() != "")
    process.kill()
    process.communicate()
    wait_until(lambda: not Path("/proc", told.read_text()).exists())


def test_what_is_killed_is_told(module: Path) -> None:
    process, told = start(module, "-m", "wait"), module / "id"
    wait_until(lambda: told.is_file() and told.read_text() != "")
    os.kill(int(told.read_text()), 9)
    process.communicate(timeout=60)
    assert process.returncode == -9
