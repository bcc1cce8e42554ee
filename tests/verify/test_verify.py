"""A rerun against a recorded result: what counts as the same, what as near enough, and what is said of the rest."""

import contextlib
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import load, tiny
from support.tiny import objects_spec, prepare_objects

from udaseg.archive.keep import keep_jobs
from udaseg.cli.main import main
from udaseg.engine.metrics import scores
from udaseg.errors import UserError
from udaseg.jobs.job import Job, Plan, code_of
from udaseg.jobs.plan import make_plan
from udaseg.runs.files import read_json, write_bytes, write_json, write_text, write_yaml
from udaseg.runs.folder import publish
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import EvaluateSpec, TrainSpec, published
from udaseg.verify.certificate import certificate, markdown
from udaseg.verify.compare import DIFFERS, IDENTICAL, NOT_COMPARED, WITHIN, Comparison, verify

OTHER = Path("other/results")
RECORD = Path("reports/reference/tiny/runs")
ENV = {"versions": {"torch": "2.15.0"}, "threads": 1, "code": "c0de", "cpu": {"flags": ["avx2", "fma"]}}


def result(job: Job, moved: float = 0.0) -> dict[str, Any]:
    """Contents of a job's files; `moved` is how far from the plain ones its numbers are, a share of pixels."""
    if isinstance(job.spec, EvaluateSpec):
        classes, sets = job.spec.classes, job.spec.class_sets
        wrong = round(100_000 * moved)
        confusion = np.diag([200_000] * len(classes)) + np.roll(np.eye(len(classes), dtype=int) * wrong, 1, axis=1)
        confusion -= np.eye(len(classes), dtype=int) * wrong
        found = scores(confusion, classes, sets) | {"iteration": 4, "monitor": 0.5}
        return {"metrics.json": {"classes": classes, "data": "7" * 64, "scores": {"last": found, "best": found}}}
    if job.kind == "train":
        history = [{"iteration": index, "terms": {"seg": 2 - index + moved * (index > 2)}} for index in (1, 2, 3, 4)]
        monitor = None if job.spec.monitor is None else 0.5 + moved  # type: ignore[union-attr]
        last = {"iteration": 4, "monitor": monitor}
        return {"history.jsonl": history, "result.json": {"last": last, "data": {"source": "5" * 64}}}
    counts = {"road": 60, "sky": round(1000 * moved)}
    if job.kind == "label":
        return {"labels.json": {"rule": "class_balanced", "predicted": counts, "thresholds": {"road": 0.9 + moved}}}
    return {"quality.json": {"selected": counts, "judged": counts, "correct": {"road": 30, "sky": 0}, "total": 1000}}


def finish(job: Job, moved: float = 0.0, env: dict[str, Any] | None = None, weights: bytes = b"weights") -> None:
    """Invent what a finished job leaves in its folder. Other numbers come of other weights."""
    build = Path("build")
    for name, content in result(job, moved).items():
        if name.endswith(".jsonl"):
            write_text(build / name, "".join(json.dumps(line) + "\n" for line in content))
        else:
            write_json(build / name, content)
    if job.kind == "train":
        write_bytes(build / "model.safetensors", weights + str(moved).encode())
        write_json(build / "env.json", ENV | (env or {}))
        write_json(build / "cost.json", {"seconds": 6})
    write_yaml(build / "spec.yaml", published(job.spec))
    publish(build, Path(job.folder), job.folder, job.kind)


def jobs(plan: Plan) -> list[Job]:
    return [job for job in plan.jobs.values() if KINDS[job.kind].numbers]


def again(plan: Plan, *which: Job, moved: float = 0.0, **options: Any) -> None:
    """Make some of a plan's jobs again, or all, and throw away what was made of them before."""
    for job in which or jobs(plan):
        files = [path for path in Path(job.folder).glob("*") if path.is_file()]  # and not what lies in the folder
        for path in files:
            path.unlink()
        finish(job, moved, **options)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A study, and a folder that holds what was made of it here and in another clone."""
    root = tmp_path_factory.mktemp("recorded")
    one_round = {"cbst": {"stages": {"round": {"rounds": {"count": 1}}}}}
    with contextlib.chdir(root):
        made = make_plan(load(Path(), tiny(run=["source_only", "cbst"], recipes=one_round)))
        again(made)
        shutil.copytree("results", OTHER)
        for path in Path("results").rglob("cost.json"):
            write_json(path, {"seconds": 7})
    return made, root


@pytest.fixture
def plan(recorded: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The study, its results and what is recorded of it, in a folder of the test's own."""
    shutil.copytree(recorded[1], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr("os.fsync", lambda handle: None)  # of hundreds of files that nobody will miss
    return recorded[0]


def verdicts(made: list[Comparison]) -> dict[str, int]:
    found = [one.verdict for one in made]
    return {verdict: found.count(verdict) for verdict in found}


def of(made: list[Comparison], label: str) -> Comparison:
    return next(one for one in made if one.job.label == label)


def job_of(plan: Plan, label: str) -> Job:
    return next(job for job in plan.jobs.values() if job.label == label)


def test_a_rerun_of_the_same_bytes_is_identical(plan: Plan) -> None:
    made = verify(plan, OTHER, 0.0)
    assert {one.job.kind for one in made} == {name for name, kind in KINDS.items() if kind.numbers}
    assert verdicts(made) == {IDENTICAL: len(jobs(plan))} and not any(one.files or one.largest for one in made)


def test_records_without_weights_know_them(plan: Plan) -> None:
    keep_jobs(plan)
    assert not list(RECORD.rglob("*.safetensors"))
    assert verdicts(verify(plan, RECORD)) == {IDENTICAL: len(jobs(plan))}
    job = job_of(plan, "source_only.main seed=0")
    again(plan, job, weights=b"others")
    other = of(verify(plan, RECORD), job.label)
    assert other.files == ["model.safetensors"] and other.largest == {} and other.verdict == WITHIN
    assert of(verify(plan, RECORD, 0.0), job.label).verdict == DIFFERS


def test_a_score_within_and_beyond_the_tolerance(plan: Plan) -> None:
    job = job_of(plan, "evaluation of source_only.main seed=0")
    again(plan, job, moved=0.006)
    made = verify(plan, OTHER, 0.7)
    moved = of(made, job.label)
    (name,) = [name for name in moved.largest if name.startswith("scores.last.sets.")]
    found, iou = moved.largest[name], moved.largest["scores.last.iou.road"]
    # 600 of 200,000 pixels of each class go to the next: IoU = 199,400 / 200,600.
    assert found.size == pytest.approx(1 - 1994 / 2006) == iou.size and found.recorded == 1.0
    assert moved.largest["scores.last.confusion"].size == 600 and moved.files == ["metrics.json"]
    assert moved.verdict == WITHIN and verdicts(made)[IDENTICAL] == len(jobs(plan)) - 1
    assert of(verify(plan, OTHER, 0.5), job.label).verdict == DIFFERS


def test_a_score_that_is_defined_on_one_side_only_is_beyond_any_tolerance(plan: Plan) -> None:
    job = job_of(plan, "evaluation of source_only.main seed=0")
    content = result(job)
    name = next(iter(job.spec.class_sets))  # type: ignore[union-attr]
    content["metrics.json"]["scores"]["best"] = {"sets": {name: None}, "iou": {"road": float("nan")}}
    shutil.rmtree(job.folder)
    write_text(Path("build/metrics.json"), json.dumps(content["metrics.json"]))
    write_yaml(Path("build/spec.yaml"), published(job.spec))
    publish(Path("build"), Path(job.folder), job.folder, job.kind)
    made = of(verify(plan, OTHER, 100.0), job.label)
    assert made.verdict == DIFFERS and made.largest[f"scores.best.sets.{name}"].size is None
    assert made.largest["scores.best.iou.road"].here == "nan"


def test_where_a_training_parts_from_the_record(plan: Plan) -> None:
    job = job_of(plan, "source_only.main seed=0")
    again(plan, job, moved=0.02)
    made = of(verify(plan, OTHER), job.label)
    assert made.first_iteration == 3 and made.largest["terms.seg"].iteration == 3
    assert made.largest["terms.seg"].size == pytest.approx(0.02) == made.largest["last.monitor"].size
    assert made.verdict == DIFFERS and of(verify(plan, OTHER, 2.5), job.label).verdict == WITHIN


def test_pseudo_labels_are_held_by_what_they_are_worth(plan: Plan) -> None:
    job = plan.of_kind("quality")[0]
    again(plan, job, moved=0.02)
    made = of(verify(plan, OTHER, 50.0), job.label)
    assert made.largest["coverage"].size == pytest.approx(0.02)
    assert made.largest["precision"].size == pytest.approx(30 / 60 - 30 / 80)
    assert made.verdict == WITHIN and of(verify(plan, OTHER, 5.0), job.label).verdict == DIFFERS


def test_what_has_no_score_has_the_verdict_of_what_was_made_from_it(plan: Plan) -> None:
    pretraining, labels = job_of(plan, "pretraining on objects"), plan.of_kind("label")[0]
    again(plan, pretraining, labels, moved=0.02)
    made = verify(plan, OTHER)
    assert of(made, pretraining.label).verdict == of(made, labels.label).verdict == WITHIN
    assert "by the scores" in of(made, labels.label).reason
    assert verdicts(verify(plan, OTHER, 0.0))[DIFFERS] == 2
    trained = next(job for job in plan.of_kind("train") if labels in job.parents)
    again(plan, trained, moved=0.02)
    made = verify(plan, OTHER)
    assert of(made, trained.label).verdict == of(made, labels.label).verdict == DIFFERS
    assert of(made, pretraining.label).verdict == WITHIN  # the rounds start from the warm-up
    shutil.rmtree("results")
    again(plan, pretraining, moved=0.02)
    alone = of(verify(plan, OTHER), pretraining.label)
    assert alone.verdict == NOT_COMPARED and "nothing that is scored" in alone.reason


def test_what_is_missing_on_either_side_is_named(plan: Plan) -> None:
    here, there = job_of(plan, "source_only.main seed=0"), job_of(plan, "evaluation of cbst.round1 seed=0")
    shutil.rmtree(here.folder)
    shutil.rmtree(OTHER / Path(there.folder).relative_to("results"))
    made = verify(plan, OTHER)
    assert of(made, here.label).reason == of(made, f"evaluation of {here.label}").reason == "it is not finished here"
    assert "on record" in of(made, there.label).reason
    lacking = [job for job in jobs(plan) if here.folder in job.folder or job is there]
    assert verdicts(made) == {IDENTICAL: len(jobs(plan)) - len(lacking), NOT_COMPARED: len(lacking)}


def test_damaged_files_are_an_error_that_names_them(plan: Plan) -> None:
    place = Path(job_of(plan, "source_only.main seed=0").folder).relative_to("results")
    for side in (Path("results"), OTHER):
        for name in ("model.safetensors", "history.jsonl", "spec.yaml", "run.json"):
            path = side / place / name
            whole = path.read_text()
            path.write_text("[]" if name == "run.json" else whole + "# 1\n")
            with pytest.raises(UserError, match=rf"because of 1 damaged files(.|\n)*{path} "):
                verify(plan, OTHER)
            path.write_text(whole)
    assert verdicts(verify(plan, OTHER)) == {IDENTICAL: len(jobs(plan))}


def test_a_record_may_lack_its_weights_and_nothing_else(plan: Plan) -> None:
    job = job_of(plan, "source_only.main seed=0")
    record = OTHER / Path(job.folder).relative_to("results")
    (record / "model.safetensors").unlink()
    assert of(verify(plan, OTHER), job.label).verdict == IDENTICAL
    (record / "history.jsonl").unlink()
    (Path(job.folder) / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"2 damaged files(.|\n)*results/.*model\.safetensors is missing\n.*other/.*history"
    ):
        verify(plan, OTHER)


@pytest.mark.parametrize(
    ("name", "text"), [("env.json", "{"), ("history.jsonl", "7\n"), ("quality.json", '{"selected": 3}')]
)
def test_files_of_other_content_are_errors_that_name_them(plan: Plan, name: str, text: str) -> None:
    job = plan.of_kind("quality")[0] if name == "quality.json" else job_of(plan, "source_only.main seed=0")
    shutil.rmtree(job.folder)
    for other, content in result(job).items():
        write_text(Path("build") / other, json.dumps(content))
    write_text(Path("build") / name, text)
    write_yaml(Path("build/spec.yaml"), published(job.spec))
    publish(Path("build"), Path(job.folder), job.folder, job.kind)
    with pytest.raises(UserError, match=rf"results/.*{name}"):
        verify(plan, OTHER)


def test_another_environment_is_shown_and_is_no_difference(plan: Plan) -> None:
    again(plan, env={"threads": 2, "cpu": {"flags": ["avx2"]}, "code": "0ther", "mode": "strict"})
    made = verify(plan, OTHER)
    content = certificate(plan.study, OTHER, 1.0, made)
    assert content["verdict"] == IDENTICAL
    job = content["jobs"][job_of(plan, "source_only.main seed=0").folder]
    assert job["environment"] == {"threads": [2, 1], "cpu.flags.1": [None, "fma"], "mode": ["strict", None]}
    assert content["environment"]["recorded"]["versions.torch"] == ["2.15.0"]
    text = markdown(content)
    assert "| threads | 1, 2 | 1 |" in text and "| mode | strict | - |" in text and "Code: no difference." in text


def changed(plan: Plan, **values: dict[str, Any]) -> Plan:
    """The plan of the same study after its code has changed: all hashes are others, and trainings have these values."""
    made, folders = Plan(plan.study), {}

    def renamed(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: renamed(value) for key, value in content.items()}
        return folders.get(content, content) if isinstance(content, str) else content

    for job in plan.jobs.values():
        if job.kind == "report":
            continue
        old = job.folder
        outer, _, name = old.rpartition("/")
        stem, _, code = name.rpartition("-")
        folders[old] = f"{folders.get(outer, outer)}/{stem}-{code[::-1]}"
        update = renamed(job.spec.model_dump(mode="json")) | {"code": "0ther", "folder": folders[old]}
        if isinstance(job.spec, TrainSpec):
            update |= {key: update[key] | value for key, value in values.items()}
        spec = type(job.spec).model_validate_json(json.dumps(update))
        made.add(
            dataclasses.replace(job, spec=spec, parents=tuple(made.jobs[folders[one.folder]] for one in job.parents))
        )
    return made


@pytest.mark.slow
def test_what_was_really_trained_twice_is_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = (prepare_objects(Path(), {"train": 4, "val": 2}, world) for world in (1, 2))
    spec = objects_spec(source, target, "dann", folder="results/pair/dann/seed=0-0123456789", train={"iterations": 4})
    job = Job(spec.model_copy(update={"code": code_of(spec)}), label="dann")
    plan = Plan("pair", {job.folder: job})
    write_yaml(Path("spec.yaml"), job.spec.model_dump(mode="json"))
    assert main(["train", "spec.yaml"]) == 0
    shutil.move("results", OTHER)
    assert main(["train", "spec.yaml"]) == 0
    (made,) = verify(plan, OTHER, 0.0)
    assert made.verdict == IDENTICAL and made.environment[0] == made.environment[1]
    assert {"model.safetensors", "history.jsonl"} <= set(read_json(Path(job.marker))["files"])
    assert (Path(job.folder) / "cost.json").read_bytes() != (Path(made.recorded) / "cost.json").read_bytes()


def test_after_a_change_of_code_the_counterpart_is_what_was_told_the_same(plan: Plan) -> None:
    later = changed(plan)
    assert not {job.folder for job in jobs(plan)} & {job.folder for job in jobs(later)}
    again(later)
    made = verify(later, OTHER, 0.0)
    assert verdicts(made) == {IDENTICAL: len(jobs(plan))}
    own = [OTHER / Path(job.folder).relative_to("results") for job in jobs(plan)]
    assert [one.recorded for one in made] == list(map(str, own))
    content = certificate(plan.study, OTHER, 1.0, made)
    assert set(content["code"]["here"]) == set(content["code"]["recorded"]) and content["code"]["here"]["label"] == [
        "0ther"
    ]


def test_another_number_of_threads_is_of_the_environment(plan: Plan) -> None:
    later = changed(plan, train={"threads": 3})
    again(later, env={"threads": 3})
    made = verify(later, OTHER)
    assert verdicts(made) == {IDENTICAL: len(jobs(plan))}
    assert {one.environment[0]["threads"] for one in made if one.job.kind == "train"} == {3}


def test_other_parameters_under_the_same_name_are_not_compared(plan: Plan) -> None:
    later = changed(plan, optim={"lr": 0.5})
    again(later)
    made = verify(later, OTHER)
    assert verdicts(made) == {NOT_COMPARED: len(jobs(plan))}
    assert "optim.lr is 0.5 here, 0.003 on record" in of(made, "source_only.main seed=0").reason


def test_two_that_were_told_the_same_are_not_chosen_from(plan: Plan) -> None:
    again(changed(plan))
    shutil.rmtree(OTHER)
    shutil.move("results", OTHER)
    third = changed(changed(plan))
    third = dataclasses.replace(third, jobs={job.folder: job for job in jobs(third)})
    again(third)
    assert verdicts(verify(third, OTHER)) == {IDENTICAL: len(jobs(plan))}  # hashes turned round twice are the old ones
    place = Path(job_of(plan, "pretraining on objects").folder)
    (OTHER / place.relative_to("results")).rename(OTHER / "objects/source_only" / f"{place.name[:-10]}{'0' * 10}")
    pretraining = of(verify(third, OTHER), "pretraining on objects")
    assert pretraining.verdict == NOT_COMPARED and "several are on record" in pretraining.reason


def test_the_verb_writes_the_same_certificate_again(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(plan, "evaluation of source_only.main seed=0")
    again(plan, job, moved=0.006)
    command = ["verify", "--study", "tiny", "--recorded", str(OTHER)]
    assert main(command) == 0
    assert "within tolerance (6 identical, 1 within tolerance, 0 differs, 0 not compared)" in capsys.readouterr().out
    paths = [Path("reports/certificates/tiny.json"), Path("reports/certificates/tiny.md")]
    first = [path.read_bytes() for path in paths]
    assert main([*command, "--output", "again/here.json"]) == 0
    assert [Path("again/here.json").read_bytes(), Path("again/here.md").read_bytes()] == first
    content = read_json(paths[0])
    assert content["counts"] == {IDENTICAL: 6, WITHIN: 1, DIFFERS: 0, NOT_COMPARED: 0}
    (name,) = [name for name in content["largest"] if name.startswith("evaluate: scores.last.sets.")]
    assert content["largest"][name]["job"] == job.folder and f"| {name} | 0.00598" in paths[1].read_text()
    assert main([*command, "--tolerance", "0.5"]) == 1
    assert "the rerun differs from the record; reports/certificates/tiny.md has the details" in capsys.readouterr().err
    assert read_json(paths[0])["verdict"] == DIFFERS


def test_nothing_compared_is_no_success(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("results")
    assert main(["verify", "--study", "tiny", "--recorded", str(OTHER)]) == 1
    assert "nothing could be compared" in capsys.readouterr().err
    assert "| 7 | it is not finished here |" in Path("reports/certificates/tiny.md").read_text()


def test_what_cannot_be_verified(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--recorded", str(OTHER)]
    for options, part in (
        (["--recorded", "results"], r"results: no folder of recorded results.*udaseg keep"),
        ([], r"reports/reference/tiny/runs: no folder of recorded results"),
        ([*there, "--tolerance", "-1"], r"--tolerance -1\.0: expected percentage points"),
        ([*there, "--tolerance", "nan"], r"--tolerance nan: expected"),
        ([*there, "--output", "here.md"], r"--output here\.md: expected a name that ends in \.json"),
    ):
        assert main(["verify", "--study", "tiny", *options]) == 1
        assert re.search(part, capsys.readouterr().err)
    assert not Path("reports/certificates").exists()
