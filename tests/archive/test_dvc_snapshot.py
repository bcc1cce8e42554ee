"""The snapshot that DVC versions: exactly what a plan has, and what a workflow takes over from it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny
from support.tiny import prepare_objects

from udaseg.archive.dvc_snapshot import SNAPSHOT, adopt, write_part, write_plan
from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan, unneeded_archives
from udaseg.jobs.plan import make_plan
from udaseg.runs.files import read_json, sha256, write_json, write_text, write_yaml
from udaseg.runs.folder import is_whole, publish

DIRECTORY = Path("snapshot/results/toytown_source-toytown_target")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(**changes: Any) -> Plan:
    return make_plan(load(Path(), tiny(**changes)))


def finish(job: Job, seconds: float = 1.0) -> None:
    """Invent what a finished job leaves; of a set, a real one."""
    folder = Path(job.folder)
    if job.kind == "prepare":
        shutil.move(prepare_objects(Path("made"), {"train": 1}), folder)
    else:
        write_yaml(Path("build/spec.yaml"), job.spec.model_dump(mode="json"))
        write_text(Path("build/model.safetensors"), "weights")
        write_json(Path("build/cost.json"), {"seconds": seconds})
        publish(Path("build"), folder, job.folder, job.kind)


def finished(**changes: Any) -> Plan:
    made = plan(**changes)
    for job in made.jobs.values():
        if job.kind != "report":
            finish(job)
    return made


def tree(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def write_all(made: Plan) -> dict[str, str]:
    write_plan(made)
    write_part("data")
    write_part("runs")
    return tree(SNAPSHOT)


def test_it_holds_what_is_planned_and_nothing_else() -> None:
    larger = finished()
    write_all(larger)
    smaller = plan(run=["source_only"])
    held = write_all(smaller)
    folders = {str(Path(path).parent) for path in held if path.endswith("run.json")}
    assert folders == {f"snapshot/{job.folder}" for job in smaller.jobs.values() if job.kind in ("train", "evaluate")}
    assert not list(SNAPSHOT.rglob("dann"))
    assert list(Path("results").glob("*/dann/*/run.json"))  # here it stays


def test_what_a_clock_measured_is_not_in_it() -> None:
    first = write_all(finished())
    assert not list(SNAPSHOT.rglob("cost.json"))
    for job in plan().jobs.values():
        if job.kind == "train":
            shutil.rmtree(job.folder)
    for job in plan().jobs.values():
        if job.kind in ("train", "evaluate"):
            finish(job, seconds=2.0)
    assert write_all(plan()) == first


def test_its_files_are_second_names() -> None:
    write_all(finished())
    for path in Path("results").rglob("*.safetensors"):
        assert path.samefile(SNAPSHOT / path)


def test_it_does_not_depend_on_what_was_there_before() -> None:
    write_all(finished(run=["source_only", "dann", "adabn"]))
    long = write_all(plan())
    shutil.rmtree(SNAPSHOT)
    assert write_all(plan()) == long


def test_the_plans_of_the_parts_change_with_their_jobs_only() -> None:
    def plans() -> dict[str, str]:
        return tree(SNAPSHOT / "plan")

    write_plan(plan())
    before = plans()
    write_plan(plan())
    assert plans() == before
    write_plan(plan(recipes={"dann": {"stages": {"main": {"knobs": {"gamma": 5.0}}}}}))
    changed = {Path(path).stem for path, digest in plans().items() if digest != before[path]}
    assert changed == {"runs", "report"}
    write_plan(plan(methods={"plca": {"weights": {"lovasz": 2.0}}}))  # nothing planned uses it
    assert plans() == before


def test_every_job_that_is_not_whole_is_named_and_the_rest_is_up_to_date() -> None:
    made = finished()
    damaged, missing = (next(job for job in made.jobs.values() if job.kind == kind) for kind in ("train", "evaluate"))
    (Path(damaged.folder) / "model.safetensors").write_text("weighs")
    shutil.rmtree(missing.folder)
    write_plan(made)
    with pytest.raises(UserError) as raised:
        write_part("runs")
    assert f"{damaged.folder}: not a finished run" in str(raised.value)
    assert f"{missing.folder}: not a finished run" in str(raised.value)
    whole = [job for job in made.jobs.values() if job.kind == "train" and job is not damaged]
    assert all(is_whole(SNAPSHOT / job.folder) for job in whole)


def test_without_a_plan_nothing_is_removed() -> None:
    held = write_all(finished())
    shutil.rmtree(SNAPSHOT / "plan")
    with pytest.raises(UserError, match=r"snapshot/plan/runs\.json: not there; `udaseg snapshot plan` writes it"):
        write_part("runs")
    assert tree(SNAPSHOT) == {path: digest for path, digest in held.items() if "/plan/" not in path}


def test_a_spoilt_file_of_the_snapshot_is_put_right() -> None:
    made = finished()
    first = write_all(made)
    path = next(SNAPSHOT.rglob("model.safetensors"))
    path.unlink()
    path.write_text("spoilt")
    (path.parent / "stray").write_text("stray")
    assert write_all(made) == first


def test_a_report_of_parts_is_not_versioned() -> None:
    from udaseg.archive.dvc_snapshot import write_report

    with pytest.raises(UserError, match="not all its jobs are finished here"):
        write_report(plan())
    assert not SNAPSHOT.exists()


class TestAdopting:
    def forget(self, made: Plan) -> None:
        write_all(made)
        for name in ("results", "data"):
            shutil.rmtree(name)

    @pytest.mark.parametrize("links", [False, True])
    def test_what_was_pulled_is_taken_over(self, links: bool) -> None:
        made = finished()
        self.forget(made)
        if links:  # DVC may put links to its cache in the place of files
            for index, path in enumerate([path for path in SNAPSHOT.rglob("*") if path.is_file()]):
                kept = Path("cache") / str(index)
                kept.parent.mkdir(exist_ok=True)
                path.rename(kept)
                path.symlink_to(kept.absolute())
        taken = adopt(made)
        jobs = [job for job in made.jobs.values() if job.kind != "report"]
        assert sorted(job.folder for job in jobs) == sorted(taken)
        assert all(Path(job.marker).is_file() for job in jobs)
        assert all(is_whole(Path(job.folder)) for job in jobs if job.kind != "prepare")
        assert not [path for path in Path("results").rglob("*") if path.is_symlink()]
        assert adopt(made) == []
        if not links:
            assert write_all(made) == tree(SNAPSHOT)

    def test_what_is_not_planned_any_more_is_taken_over_too_for_going_back(self) -> None:
        made = finished()
        self.forget(made)
        changed = plan(recipes={"dann": {"stages": {"main": {"knobs": {"gamma": 5.0}}}}})
        adopt(changed)
        left = [job for job in changed.jobs.values() if not Path(job.marker).exists()]
        assert [job.label for job in left] == ["dann.main seed=0", "evaluation of dann.main seed=0", "report of tiny"]
        for job in left[:2]:
            finish(job)
        write_all(changed)
        assert all(Path(job.marker).exists() for job in made.jobs.values() if job.kind != "report")

    def test_what_is_damaged_is_told_and_not_taken_over(self, capsys: pytest.CaptureFixture[str]) -> None:
        made = finished()
        self.forget(made)
        path = next(DIRECTORY.glob("dann/*/model.safetensors"))
        path.write_text("spoilt")
        assert not [folder for folder in adopt(made) if "/dann/" in folder and "evaluate" not in folder]
        assert not list(Path("results").glob("*/dann/*/run.json"))
        assert f"not taken over: {path.parent}: not a finished run" in capsys.readouterr().err

    def test_what_is_here_is_not_replaced(self) -> None:
        made = finished()
        write_all(made)
        before = {path: os.stat(path).st_ino for path in Path("results").rglob("*") if path.is_file()}
        assert adopt(made) == []
        assert before == {path: os.stat(path).st_ino for path in Path("results").rglob("*") if path.is_file()}

    def test_a_report_comes_with_all_its_runs_into_an_empty_place_only(self) -> None:
        made = finished()
        write_all(made)
        write_text(SNAPSHOT / "report/index.html", "page")
        write_text(SNAPSHOT / "report/tables/main.csv", "table")
        assert adopt(made) == ["reports/tiny"]
        assert Path("reports/tiny/tables/main.csv").read_text() == "table"
        assert read_json(Path(made.report.marker)) == {"of": "results"}
        assert read_json(Path(made.tracking_note)) == {"status": "adopted"}
        Path(made.report.marker).unlink()
        assert adopt(made) == []  # here a report was written since
        shutil.rmtree("reports")
        for root in (Path("results"), SNAPSHOT / "results"):
            shutil.rmtree(next(root.glob("*/dann/*")))
        assert adopt(made) == []


def test_an_archive_is_not_fetched_for_a_set_that_came_prepared() -> None:
    task = {"classes": ["sky", "road"], "class_sets": {"both": ["sky", "road"]}}
    made = plan(task={"target": {"dataset": "camvid"}} | task, run=["source_only"])
    assert unneeded_archives(made) == frozenset()
    (archive,) = made.of_kind("download")
    for job in made.of_kind("prepare"):
        write_json(Path(job.marker), {})
    assert unneeded_archives(made) == {archive.folder}
