"""The README's walk-throughs are followed to the letter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import ROOT, Project, load, tiny

from udaseg.jobs.fingerprint import PACKAGE
from udaseg.jobs.plan import make_plan
from udaseg.study.overlay import overlay

README = (ROOT / "README.md").read_text()
FOR_ALL_METHODS = ("methods/test_knobs", "methods/test_lookup", "repository/test_boundaries")


def blocks(first_line: str) -> list[str]:
    """The code blocks of the README that begin with this line, of which there is one at least."""
    bodies = re.findall(r"```\w+\n(.*?)```", README, re.DOTALL)
    found = [str(body) for body in bodies if body.startswith(first_line + "\n")]
    assert found, f"README.md has no code block that begins with {first_line!r}"
    return found


def block(first_line: str) -> str:
    return blocks(first_line)[0]


def section(title: str) -> str:
    """The text below a heading of the README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def add_method(package: Path) -> str:
    """Do in a copy of the package what the README says; returns the study's text."""
    file, line, study, _ = re.findall(r"```\w+\n(.*?)```", section("Your own method"), re.DOTALL)
    place = re.fullmatch(r"# src/udaseg/(\S+)", file.splitlines()[0])
    assert place is not None
    (package / place[1]).write_text(file)
    table = package / "methods" / "__init__.py"
    above = table.read_text().splitlines(keepends=True)
    if line not in above:  # who followed the README has it
        last = max(number for number, text in enumerate(above) if text.startswith('        "'))
        table.write_text("".join([*above[: last + 1], line, *above[last + 1 :]]))
    return str(study)


def python(folder: Path, *arguments: str) -> str:
    """The output of Python with the package in `folder`/src."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    answer = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_a_new_method_changes_no_other_runs_address(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "udaseg", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from udaseg.jobs.fingerprint import fingerprint; from udaseg.methods import METHODS;"
        "print(*(f'{name} {fingerprint(\"engine.train\", METHODS.module(name))}' for name in METHODS), sep='\\n')"
    )
    before = python(tmp_path, "-c", code).splitlines()
    add_method(tmp_path / "src" / "udaseg")
    after = python(tmp_path, "-c", code).splitlines()
    assert {line for line in before if not line.startswith("entropy ")} < set(after)


@pytest.mark.slow
def test_adding_a_method(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The README's words, and nothing else: the study runs, and the tests of methods pass in the copy."""
    project = Project.create(tmp_path_factory.mktemp("method"), tiny())
    study = add_method(project.folder / "src" / "udaseg")
    project.study(overlay(tiny(), yaml.safe_load(study)))

    assert "workflow/methods.yaml" in python(project.folder, "-m", "udaseg.cli.main", "knobs", "--write")
    status, output = project.snakemake()

    assert status == 0, output
    table = (project.folder / "reports" / "tiny" / "tables" / "main.md").read_text()
    assert "Entropy minimisation" in table and "Oracle" in table
    history = next(project.folder.glob("results/*/entropy/*/history.jsonl")).read_text()
    assert '"entropy"' in history and '"seg"' in history

    for name in ("tests", "pyproject.toml"):
        target = project.folder / name
        shutil.copytree(ROOT / name, target) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, target)
    run = ("-m", "pytest", "-q", "-n", "0")
    assert " passed" in python(project.folder, *run, "-k", "entropy", "tests/methods/test_contract.py")
    python(project.folder, *run, *(f"tests/{name}.py" for name in FOR_ALL_METHODS))


def labels(folder: Path, over: dict[str, Any]) -> str:
    """What the jobs of a study are called."""
    return "\n".join(job.label for job in make_plan(load(folder, over)).jobs.values())


def test_own_images_study_is_valid(tmp_path: Path) -> None:
    """The study for two folders of images can be planned as it stands in the README."""
    planned = labels(tmp_path, yaml.safe_load(block("datasets:")))
    assert "game" in planned and "camera" in planned


@pytest.mark.parametrize("text", blocks("recipes:"))
def test_every_recipe_is_valid(tmp_path: Path, text: str) -> None:
    recipes = yaml.safe_load(text)
    planned = labels(tmp_path, overlay(tiny(), recipes | {"run": list(recipes["recipes"])}))
    assert all(f"{name}." in planned for name in recipes["recipes"]), planned


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}"


def test_the_recipe_of_several_stages_is_valid(tmp_path: Path) -> None:
    planned = labels(tmp_path, overlay(tiny(), yaml.safe_load(block("recipes:")) | {"run": ["my_cbst"]}))
    assert all(f"my_cbst.round{number} seed=0" in planned for number in (1, 2, 3)), planned
