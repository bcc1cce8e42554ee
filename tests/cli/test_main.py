"""The command line: help, exit statuses, messages without a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT, tiny, write_study

from udaseg import __version__
from udaseg.cli.main import main

VERBS = (
    *("plan", "download", "prepare", "train", "label", "quality", "translate", "evaluate", "report", "track"),
    *("predict", "keep", "verify", "snapshot", "devices", "gc"),
)


def udaseg(*arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The command as a user starts it."""
    command = [sys.executable, "-m", "udaseg.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_has_every_verb_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "--help")
    assert "examples:\n  udaseg plan" in text
    assert all(re.search(rf"^    {verb}\s", text, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert f"example:\n  udaseg {verb}" in helped(capsys, verb, "--help")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, "--version") == f"udaseg {__version__}\n"
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_a_wrong_command_line_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["trian"], ["train"], ["predict", "--run", "x", "image.png"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    assert "usage: udaseg" in capsys.readouterr().err


def test_what_a_user_can_put_right_ends_with_1_and_no_traceback(tmp_path: Path) -> None:
    found = udaseg("train", "nowhere.yaml", folder=tmp_path)
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith("udaseg train: nowhere.yaml: cannot be read as YAML")
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_plan_lists_the_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, tiny())
    assert main(["plan", "--study", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "study tiny: 9 jobs, 0 done, 9 to do"
    assert lines[0].startswith("todo  prepare   data set toytown_source")
    assert not (tmp_path / "state").exists()
    assert main(["plan", "--study", "tiny", "--write"]) == 0
    specs = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert all((tmp_path / spec).is_file() for spec in specs)


def test_plan_with_a_wrong_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, {"trian": {}})
    assert main(["plan", "--params", str(tmp_path / "params.yaml"), "--study", "tiny"]) == 1
    assert "trian: unknown key; did you mean 'train'?" in capsys.readouterr().err


def test_gc_lists_and_removes_only_what_no_study_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, tiny())
    assert main(["plan", "--study", "tiny"]) == 0
    planned = [Path(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[:-1]]
    stray = [
        Path("results/a-b/dann/seed=0-0123456789"),
        Path("results/a-b/translation-0123456789"),
        Path("data/sets/old-0123456789"),
    ]
    within = stray[0] / "evaluate-0123456789"
    for folder in [*planned, *stray, within, *(Path("state") / folder for folder in stray)]:
        folder.mkdir(parents=True, exist_ok=True)
    assert main(["gc"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert sorted(found[:-1]) == sorted(map(str, stray))
    assert found[-1] == "3 folders that none of the studies tiny plans: to remove with --delete"
    assert all(folder.is_dir() for folder in stray)
    assert main(["gc", "--delete"]) == 0
    assert not any(folder.exists() for folder in [*stray, *(Path("state") / folder for folder in stray)])
    assert all(folder.is_dir() for folder in planned)


def test_gc_does_not_delete_while_a_study_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from udaseg.cli.workflow import only_driver

    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, tiny())
    Path("results/a-b/dann/seed=0-0123456789").mkdir(parents=True)
    with only_driver():
        assert main(["gc", "--delete"]) == 1
        assert "another snakemake works in this folder" in capsys.readouterr().err
        assert main(["gc"]) == 0
    assert Path("results/a-b/dann/seed=0-0123456789").is_dir()
