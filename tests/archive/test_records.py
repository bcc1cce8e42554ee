"""What lies under reports/reference counts as finished for a report, and for nothing else."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.archive.keep import keep_jobs, keep_report, left_out, origin
from udaseg.cli import workflow as driver
from udaseg.cli.main import main
from udaseg.cli.workflow import open_study
from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan
from udaseg.jobs.plan import make_plan
from udaseg.runs.files import write_json, write_text, write_yaml
from udaseg.runs.folder import is_whole, publish
from udaseg.runs.records import KEPT, RECORDS, found, is_record, located
from udaseg.runs.spec import ReportSpec


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


def needed(made: Plan) -> list[Job]:
    """What is neither done nor left out, without the report."""
    made.left_out = left_out(made)
    return [job for job in made.jobs.values() if made.state(job) == "todo" and job.kind != "report"]


def test_without_records_all_that_leads_to_the_report_is_needed() -> None:
    made = plan()
    assert needed(made) == [job for job in made.jobs.values() if job.kind != "report"]
    for job in made.jobs.values():
        if job.kind != "report":
            finish(job)
    assert needed(made) == [] == sorted(made.left_out)


def test_what_is_recorded_is_neither_trained_nor_are_its_ancestors() -> None:
    made = plan(seeds=[0, 1])
    for job in [*made.of_kind("evaluate"), *made.of_kind("train")]:
        if "main seed=0" in job.label:
            record(job)
    assert labels(needed(made)) == [
        label for label in labels(list(made.jobs.values())) if "seed=0" not in label and "report" not in label
    ]
    for job in made.of_kind("train"):
        record(job, "another")
    kinds = [job.kind for job in needed(made)]
    assert kinds.count("evaluate") == 2 and kinds.count("train") == 3  # what is scored must be here
    for job in made.of_kind("evaluate"):
        record(job, "another")
    assert needed(made) == []
    assert {job.folder for job in made.jobs.values() if job.kind != "report"} == made.left_out


def test_a_run_that_has_no_record_is_scored_anew_with_it() -> None:
    made = plan()
    for job in made.of_kind("evaluate"):
        record(job)
    assert needed(made) == [job for job in made.jobs.values() if job.kind != "report"]


def test_a_record_is_nothing_to_start_from() -> None:
    stages = {
        "warm": {"method": "source_only"},
        "main": {"method": "dann", "init": {"student": "warm"}, "knobs": {"hidden": 8}},
    }
    made = plan(recipes={"two": {"title": "Two", "stages": stages}}, run=["two"])
    for job in made.jobs.values():
        if "two.warm" in job.label or "pretraining" in job.label:
            record(job)
    warm = labelled(made, "two.warm seed=0")
    assert labels(needed(made))[-4:] == [
        *("two.warm seed=0", "evaluation of two.warm seed=0"),
        *("two.main seed=0", "evaluation of two.main seed=0"),
    ]
    assert "pretraining on objects" in labels(needed(made))  # whose weights the warm-up starts from
    finish(warm)
    assert "pretraining on objects" not in labels(needed(made))
    assert "pretraining on objects" in {made.jobs[folder].label for folder in made.left_out}


def test_the_pretraining_is_a_row_of_the_report_too() -> None:
    made = plan()
    for job in [*made.of_kind("evaluate"), *made.of_kind("train")]:
        if "main" in job.label:
            record(job)
    assert [job.kind for job in needed(made)] == ["prepare", "train"]


def test_pictures_of_a_translator_are_made_beside_its_run_only() -> None:
    made = plan(run=["source_only", "diga"])
    (shown,) = made.of_kind("translate")
    assert shown in needed(made)
    for job in made.jobs.values():
        if job.kind in ("train", "label", "evaluate", "quality"):
            record(job)
    assert needed(made) == [] and shown.folder in made.left_out
    translator = made.jobs[str(shown.parents[-1].folder)]
    assert translator.kind == "train"
    finish(translator)
    for job in made.of_kind("prepare"):
        finish(job)
    assert shown in needed(made)


def files(study: str) -> dict[str, bytes]:
    place = RECORDS / study
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_what_is_kept_has_neither_weights_nor_pictures_and_the_rest_is_removed() -> None:
    made = plan(seeds=[0, 1])
    dann, source_only = (labelled(made, f"{name}.main seed=0") for name in ("dann", "source_only"))
    finish(dann)
    finish(labelled(made, "evaluation of dann.main seed=0"))
    stray = record(source_only, "tiny").rename(RECORDS / "tiny" / "runs" / "of_an_old_plan")
    missing = keep_jobs(made)
    assert not stray.exists()
    place = Path("runs") / Path(dann.folder).relative_to("results")
    kept = files("tiny")
    assert {str(Path(name).relative_to(place)).partition("-")[0] for name in kept} == {
        *("metrics.json", "run.json", "spec.yaml"), "evaluate"
    }  # fmt: skip
    assert is_record(RECORDS / "tiny" / place)
    assert dann not in missing and source_only in missing and not any(job.kind == "prepare" for job in missing)
    before = {path: path.stat().st_mtime_ns for path in RECORDS.rglob("*")}
    shutil.rmtree("results")
    assert keep_jobs(made) == missing and files("tiny") == kept  # what is kept stays without its run
    assert before == {path: path.stat().st_mtime_ns for path in RECORDS.rglob("*")}


def test_a_study_keeps_what_is_on_record_for_another_and_mends_what_is_damaged() -> None:
    made = plan()
    job = labelled(made, "dann.main seed=0")
    finish(labelled(made, "source_only.main seed=0"))
    other = record(job, "another")
    assert job not in keep_jobs(made)
    own = RECORDS / "tiny" / other.relative_to(RECORDS / "another")
    assert is_record(own)
    (own / "metrics.json").write_text("{}")
    assert job not in keep_jobs(made) and is_record(own)
    shutil.rmtree(other)
    (own / "metrics.json").write_text("{}")
    assert job in keep_jobs(made) and not own.exists()


def test_weights_that_were_damaged_are_no_finished_job() -> None:
    made = plan()
    job = labelled(made, "dann.main seed=0")
    (finish(job) / "model.safetensors").write_text("damaged")
    finish(labelled(made, "source_only.main seed=0"))
    assert found(Path(job.folder)) is None and job in keep_jobs(made)
    assert "dann" not in "".join(files("tiny"))


def test_where_nothing_is_finished_what_is_on_record_stays() -> None:
    made = plan()
    finish(labelled(made, "dann.main seed=0"))
    keep_jobs(made)
    kept = files("tiny")
    with pytest.raises(UserError, match=r"study tiny: no job of its plan is finished.*nothing to keep"):
        keep_jobs(plan(seeds=[7]))
    assert kept and files("tiny") == kept


def test_a_report_is_kept_with_its_spec_and_without_what_it_has_no_longer() -> None:
    made = plan()
    write_text(made.report.spec_path, "kind: report\n")
    for name in ("index.html", "tables/main.csv", "figures/miou.svg"):
        write_text(Path(made.report.folder) / name, name)
    write_text(RECORDS / "tiny" / "figures" / "old.svg", "")
    write_text(RECORDS / "tiny" / "runs" / "kept", "")
    keep_report(made)
    assert files("tiny") == {
        name: b"kind: report\n" if name == "report.yaml" else b"" if "kept" in name else name.encode()
        for name in ("figures/miou.svg", "index.html", "report.yaml", "runs/kept", "tables/main.csv")
    }


def test_a_report_tells_what_it_is_written_of() -> None:
    made = plan()
    spec = made.report.spec
    assert isinstance(spec, ReportSpec) and origin(spec) == "parts"
    for job in [*made.of_kind("train"), *made.of_kind("evaluate")]:
        finish(job)
    assert origin(spec) == "results"
    record(labelled(made, "evaluation of dann.main seed=0"))
    assert origin(spec) == "records"


@pytest.mark.parametrize(
    ("of", "records", "kept"),
    [
        *(("results", "no", True), ("results", "yes", True), ("records", "no", False), ("records", "yes", True)),
        *(("parts", "no", False), ("parts", "yes", False)),
    ],
)
def test_a_report_is_written_again_where_more_can_be_shown(
    of: str, records: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = Path(plan().report.marker)
    write_json(marker, {"of": of})
    open_study("tiny", ["snakemake", "-n"], True, records)
    assert marker.exists()
    with contextlib.ExitStack() as held:
        monkeypatch.setattr(driver, "_held", held)
        open_study("tiny", ["snakemake"], True, records)
    assert marker.exists() == kept


def test_the_plan_shows_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(seeds=[0, 1])
    for job in [*made.of_kind("train"), *made.of_kind("evaluate")]:
        if "seed=0" in job.label:
            record(job)
    assert main(["plan", "--study", "tiny", "--records"]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split("  ")[0]: sum(other[:6] == line[:6] for other in lines) for line in lines if line[4:6] == "  "}
    left = [job for job in made.jobs.values() if job.folder in left_out(made)]
    assert {"dann.main seed=0", "evaluation of dann.main seed=0"} <= set(labels(left))
    assert states == {"kept": len(left), "todo": len(made.jobs) - len(left)}
    assert lines[-1].endswith(f"jobs, 0 done, {len(left)} kept, {len(made.jobs) - len(left)} to do")
    assert main(["plan", "--study", "tiny"]) == 0
    assert "kept" not in capsys.readouterr().out
