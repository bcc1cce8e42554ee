"""The README's walk-throughs are followed to the letter."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import ROOT, Project, load, tiny

from udaseg.jobs.plan import make_plan
from udaseg.study.overlay import overlay

README = (ROOT / "README.md").read_text()


def blocks(first_line: str) -> list[str]:
    """The code blocks of the README that begin with this line, of which there is one at least."""
    bodies = re.findall(r"```\w+\n(.*?)```", README, re.DOTALL)
    found = [str(body) for body in bodies if body.startswith(first_line + "\n")]
    assert found, f"README.md has no code block that begins with {first_line!r}"
    return found


def block(first_line: str) -> str:
    return blocks(first_line)[0]


@pytest.mark.slow
def test_adding_a_method(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project.create(tmp_path_factory.mktemp("method"), tiny())
    methods = project.folder / "src" / "udaseg" / "methods"
    (methods / "entropy.py").write_text(block("# src/udaseg/methods/entropy.py"))
    (line,) = re.findall(r'^    "entropy": Entropy,$', README, re.MULTILINE)
    table = (methods / "__init__.py").read_text()
    table = table.replace("METHODS: dict", "from udaseg.methods.entropy import Entropy\n\nMETHODS: dict", 1)
    (methods / "__init__.py").write_text(table.replace("= {\n", f"= {{\n{line}\n", 1))
    project.study(overlay(tiny(), yaml.safe_load(block("# workflow/studies/entropy.yaml"))))

    status, output = project.snakemake()

    assert status == 0, output
    table = (project.folder / "reports" / "tiny" / "tables" / "main.md").read_text()
    assert "Entropy minimisation" in table and "Oracle" in table
    history = next(project.folder.glob("results/*/entropy/*/history.jsonl")).read_text()
    assert '"entropy"' in history and '"seg"' in history


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
