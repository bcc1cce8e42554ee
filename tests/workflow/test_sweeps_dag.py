"""A sweep through Snakemake: its points run with their study, and a new value runs its own jobs only."""

import os
from pathlib import Path
from typing import Any

import pytest
from support.project import Project, tiny

from udaseg.jobs.plan import make_plan
from udaseg.runs.files import write_text
from udaseg.study.load import load_study

pytestmark = pytest.mark.slow


def study(gamma: list[float]) -> dict[str, Any]:
    over = {"main.knobs.gamma": gamma, "main.weights.domain": [0.5, 1.0]}
    mine = {"title": "Mine", "recipe": "dann", "over": over}
    return tiny(sweep=["mine"], sweeps={"mine": mine})


def finish(project: Project) -> None:
    """Invent what every planned job leaves; that it is there is all that a dry run looks at."""
    here = Path.cwd()
    os.chdir(project.folder)
    try:
        made = make_plan(load_study(Path("params.yaml"), "tiny"))
        for job in made.jobs.values():
            write_text(Path(job.marker), "{}")
        write_text(Path(made.tracking_note), '{"status": "sent"}')
        for name in ("index.html", "figures/miou.svg", "tables/main.csv"):
            write_text(Path(made.report.folder) / name, "")
    finally:
        os.chdir(here)


def test_a_new_value_runs_its_own_jobs_only(tmp_path: Path) -> None:
    project = Project.create(tmp_path, study([5.0, 10.0]))
    # Pretraining, source_only, and dann, which is one of its four points.
    assert project.todo() == {"prepare": 3, "train": 6, "evaluate": 5, "report": 1, "track": 1}
    finish(project)
    assert project.todo() == {}
    project.study(study([5.0, 10.0, 20.0]))
    assert project.todo() == {"train": 2, "evaluate": 2, "report": 1, "track": 1}
    project.study(study([5.0]))
    assert project.todo() == {"report": 1, "track": 1}
