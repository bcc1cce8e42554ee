"""What lies under reports/reference counts as finished for a report, and for nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from project import load, tiny

from udaseg.jobs import Job, Plan
from udaseg.plan import make_plan
from udaseg.records import KEPT, RECORDS, is_record, located, needed
from udaseg.runs import is_whole, publish, write_json, write_text, write_yaml


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(**changes: Any) -> Plan:
    return make_plan(load(Path(), tiny(**changes)))


def finish(job: Job) -> Path:
    """Invent what a finished job leaves."""
    folder = Path(job.folder)
    if job.kind == "prepare":
        write_json(Path(job.marker), {})
        return folder
    write_yaml(Path("build/spec.yaml"), job.spec.model_dump(mode="json"))
    write_text(Path("build/model.safetensors"), "weights")
    write_json(Path("build/metrics.json"), {"label": job.label})
    publish(Path("build"), folder, job.folder, job.kind)
    return folder


def record(job: Job, study: str = "reported") -> Path:
    """Invent a finished job's record, and remove the job."""
    folder = finish(job)
    place = RECORDS / study / "runs" / folder.relative_to("results")
    for path in folder.iterdir():
        if path.name in KEPT or path.name == "run.json":
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    shutil.rmtree(folder)
    return place


def labelled(made: Plan, label: str) -> Job:
    return next(job for job in made.jobs.values() if job.label == label)


def labels(jobs: list[Job]) -> list[str]:
    return [job.label for job in jobs]


def test_a_record_has_no_weights_and_knows_their_checksum() -> None:
    job = labelled(plan(), "dann.main seed=0")
    place = record(job)
    assert is_record(place) and not is_whole(place) and located(Path(job.folder)) == place
    assert "model.safetensors" in (place / "run.json").read_text()
    assert is_record(finish(job)) and located(Path(job.folder)) == Path(job.folder)  # the run itself comes first


@pytest.mark.parametrize("name", ["metrics.json", "spec.yaml", "run.json"])
def test_a_damaged_record_is_none(name: str) -> None:
    job = labelled(plan(), "dann.main seed=0")
    place = record(job)
    text = (place / name).read_text()
    for content in (None, text.replace("e", "x"), "[]"):
        if content is None:
            (place / name).unlink()
        else:
            (place / name).write_text(content)
        assert not is_record(place) and located(Path(job.folder)) == Path(job.folder)


def test_only_results_have_records() -> None:
    with pytest.raises(ValueError, match=r"data/sets/x"):
        located(Path("data/sets/x"))


def test_without_records_all_that_leads_to_the_report_is_needed() -> None:
    made = plan()
    assert needed(made) == [job for job in made.jobs.values() if job.kind != "report"]
    for job in made.jobs.values():
        if job.kind != "report":
            finish(job)
    assert needed(made) == []


def test_what_is_recorded_is_neither_trained_nor_are_its_ancestors() -> None:
    made = plan(seeds=[0, 1])
    for job in [*made.of_kind("evaluate"), *made.of_kind("train")]:
        if "main seed=0" in job.label:
            record(job)
    assert labels(needed(made)) == [
        label for label in labels(list(made.jobs.values())) if "seed=0" not in label and "report" not in label
    ]
    for job in made.of_kind("evaluate"):
        record(job, "another")
    assert [job.kind for job in needed(made)].count("evaluate") == 2  # whose runs have no record
    for job in made.of_kind("train"):
        record(job, "another")
    assert needed(made) == []


def test_a_record_is_nothing_to_start_from() -> None:
    stages = {
        "warm": {"method": "source_only"},
        "main": {"method": "dann", "init": {"student": "warm"}, "knobs": {"hidden": 8}},
    }
    made = plan(recipes={"two": {"title": "Two", "stages": stages}}, run=["two"])
    for job in made.jobs.values():
        if "two.warm" in job.label:
            record(job)
    found = labels(needed(made))
    assert "two.warm seed=0" in found and "two.main seed=0" in found
    assert "evaluation of two.warm seed=0" not in found
    finish(labelled(made, "two.warm seed=0"))
    found = labels(needed(made))
    assert "two.main seed=0" in found and "pretraining on objects" not in found
