"""What a plan is said to cost: from which finished jobs, and that nothing is said where nothing is known."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpus import pretend_gpus
from support.project import load, tiny

from udaseg.data.datasets.camvid import CamvidData
from udaseg.estimate.estimate import Amount, Estimate, network_bytes
from udaseg.estimate.history import device_here
from udaseg.estimate.table import WIDTH, hours, shared, size, table
from udaseg.jobs.job import Job, Plan
from udaseg.jobs.plan import make_plan
from udaseg.nets.build import build_network
from udaseg.runs.files import write_bytes, write_json, write_text, write_yaml
from udaseg.runs.folder import publish
from udaseg.runs.kinds import KINDS, Kind
from udaseg.runs.spec import ReportSpec, TrainSpec

GPU = "Some GPU"
BYTES = 1000  # of the weights of every invented run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(**changes: Any) -> Plan:
    return make_plan(load(Path(), tiny(**changes)))


def labelled(made: Plan, label: str) -> Job:
    return next(job for job in made.jobs.values() if job.label == label)


def dann(made: Plan, seed: int = 0) -> Job:
    return labelled(made, f"dann.main seed={seed}")


def train(job: Job, pace: float = 0.5, finished: str = "2026-01-01T12:00:00Z", device: str = "cpu") -> Path:
    """Invent the finished run of a job."""
    assert isinstance(job.spec, TrainSpec)
    total = job.spec.train.iterations
    cost = {"seconds": pace * total, "iterations": total, "seconds_per_iteration": pace, "attempts": 1}
    cost |= {"device": device, "finished": finished, "peak_memory_mib": 1.0}
    build = Path("build")
    write_json(build / "cost.json", cost)
    write_bytes(build / "model.safetensors", bytes(BYTES))
    return finish(job)


def finish(job: Job, seconds: float | None = None) -> Path:
    """Invent the folder of a finished job of a run, or of a run whose files lie in `build`; and its benchmark."""
    folder = Path(job.folder)
    write_yaml(Path("build/spec.yaml"), job.spec.model_dump(mode="json"))
    publish(Path("build"), folder, job.folder, job.kind)
    if seconds is not None:
        measured(job, seconds)
    return folder


def measured(job: Job, seconds: float) -> None:
    write_text(Path("logs") / f"{job.folder}.benchmark.tsv", f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t-\n")


def prepared(job: Job, counts: dict[str, int]) -> None:
    """Invent a finished set of one file beside its description."""
    content = job.spec.model_dump(mode="json")
    splits = {split: [{"name": str(index)} for index in range(count)] for split, count in counts.items()}
    described = {"spec": content["dataset"], "classes": content["classes"], "size": content["size"], "splits": splits}
    write_json(Path(job.marker), described)
    write_bytes(Path(job.folder) / "train" / "images" / "one.png", bytes(BYTES))


def seconds(made: Plan, job: Job, device: str = "cpu") -> Amount:
    return Estimate(made, device).seconds(job)


def test_without_a_finished_job_nothing_is_measured() -> None:
    made = plan()
    estimate = Estimate(made, "cpu")
    for job in made.jobs.values():
        assert estimate.seconds(job) == Amount()
        disk = estimate.disk(job)
        assert (disk.origin, disk.bound) == (("derived", ">=") if job.kind == "train" else ("unknown", "")), job.label
    assert estimate.remarks() == []


def test_a_finished_run_shows_what_it_took() -> None:
    made = plan()
    folder = train(dann(made), pace=0.25)
    write_bytes(folder / "evaluate-0123456789" / "picture.png", bytes(50_000))  # of another job
    assert seconds(made, dann(made)) == Amount(1.0, "measured", device="cpu")
    files = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    assert Estimate(made, "cpu").disk(dann(made)) == Amount(files, "measured")


def test_another_seed_takes_the_measured_time_for_its_own_iterations() -> None:
    train(dann(plan()), pace=0.25)
    made = plan(seeds=[1], train={"iterations": 1000, "monitor_every": 100, "checkpoint_every": 100})
    assert seconds(made, dann(made, 1)) == Amount(250.0, "measured", device="cpu")
    assert seconds(made, labelled(made, "source_only.main seed=1")) == Amount()
    assert Estimate(made, "cpu").disk(dann(made, 1)).origin == "measured"


def test_the_newest_measurement_counts() -> None:
    made = plan(seeds=[0, 1, 2, 3])
    train(dann(made, 1), 0.1, "2026-03-01T12:00:00Z")
    train(dann(made, 0), 0.2, "2026-03-01T15:00:00+02:00")  # an hour later than the one before
    train(dann(made, 2), 0.3, "2026-02-28T23:00:00Z")
    assert seconds(made, dann(made, 3)).value == pytest.approx(0.8)


def test_other_knobs_are_a_derivation_and_the_same_ones_come_first() -> None:
    other = {"recipes": {"dann": {"stages": {"main": {"knobs": {"hidden": 64}}}}}}
    train(dann(plan(**other)), 0.1, "2026-05-01T12:00:00Z")
    made = plan()
    assert seconds(made, dann(made)) == Amount(0.4, "derived", "from a job with other knobs", "cpu")
    assert Estimate(made, "cpu").disk(dann(made)).bound == ">="
    train(dann(plan(seeds=[1]), 1), 0.2, "2026-01-01T12:00:00Z")
    assert seconds(made, dann(made)) == Amount(0.8, "measured", device="cpu")


@pytest.mark.parametrize(
    ("over", "differing"),
    [
        ({"train": {"precision": "bf16"}}, "precision"),
        ({"train": {"threads": 2}}, "threads"),
        ({"network": {"norm": "eval"}}, "network settings"),
        ({"recipes": {"dann": {"stages": {"main": {"weights": {"domain": 0.0}}}}}}, "terms"),
    ],
)
def test_what_is_near_is_a_derivation_that_says_what_differs(over: dict[str, Any], differing: str) -> None:
    train(dann(plan(**over)))
    made = plan()
    found = seconds(made, dann(made))
    assert (found.origin, found.note) == ("derived", f"from a job with other {differing}")


@pytest.mark.parametrize(
    "over",
    [
        {"train": {"source": {"batch": 1}}},
        {"train": {"target": {"crop": [32, 48]}}},
        {"train": {"accumulate": 2}},
        {"network": {"name": "deeplabv2"}},
    ],
)
def test_other_sizes_or_networks_tell_nothing(over: dict[str, Any]) -> None:
    train(dann(plan(**over)))
    made = plan()
    assert seconds(made, dann(made)) == Amount()


def test_what_takes_the_same_time_is_the_same_work() -> None:
    weights = {"recipes": {"dann": {"stages": {"main": {"weights": {"domain": 0.5}}}}}}
    train(dann(plan(**weights, datasets={"toytown_target": {"world": 9}}, optim={"lr": 0.1})))
    made = plan()
    assert seconds(made, dann(made)).origin == "measured"


def test_another_device_is_named_and_not_mixed_in() -> None:
    made = plan(seeds=[0, 1])
    train(dann(made), 0.5, "2026-01-02T12:00:00Z", GPU)
    assert seconds(made, dann(made, 1)) == Amount(2.0, "elsewhere", f"on {GPU}", GPU)
    assert seconds(made, dann(made, 1), GPU) == Amount(2.0, "measured", device=GPU)
    assert Estimate(made, "cpu").disk(dann(made, 1)).origin == "measured"  # files are as large everywhere
    lines = table(made, "cpu")
    assert f"hours elsewhere for 1 job: on {GPU}" in lines
    assert lines[-3].startswith(f"hours to do: <0.001 h on {GPU} (1 job elsewhere), unknown for ")
    train(labelled(made, "source_only.main seed=1"), 900)
    train(dann(plan(seeds=[2]), 2), 450, "2026-01-01T12:00:00Z")
    total = next(line for line in table(made, "cpu") if line.startswith("hours to do"))
    assert total.startswith("hours to do: 1.5 h on cpu (2 jobs measured), unknown for ")


def test_an_unfinished_run_is_not_used() -> None:
    made = plan(seeds=[0, 1])
    (train(dann(made)) / "run.json").unlink()
    assert seconds(made, dann(made)) == seconds(made, dann(made, 1)) == Amount()
    assert any(line.startswith("todo  train     dann.main seed=0") for line in table(made, "cpu"))


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '{"seconds": 1}', '{"seconds": 1, "seconds_per_iteration": "x", "finished": "", "device": ""}',
     '{"seconds": 1, "seconds_per_iteration": 0, "finished": "2026-01-01", "device": "cpu"}',
     '{"seconds": 1, "seconds_per_iteration": NaN, "finished": "2026-01-01", "device": "cpu"}',
     '{"seconds": 1, "seconds_per_iteration": 1, "finished": 5, "device": "cpu"}'],
)  # fmt: skip
def test_a_damaged_cost_is_noted_and_not_used(content: str) -> None:
    made = plan(seeds=[0, 1])
    path = train(dann(made)) / "cost.json"
    path.write_text(content)
    estimate = Estimate(made, "cpu")
    assert estimate.seconds(dann(made)) == estimate.seconds(dann(made, 1)) == Amount()
    (note,) = estimate.remarks()
    assert note.startswith(f"{path}: does not say what the run took (")
    assert estimate.disk(dann(made)).origin == "measured"


def test_a_damaged_spec_or_a_missing_file_is_noted() -> None:
    made = plan(seeds=[0, 1, 2])
    (train(dann(made)) / "spec.yaml").write_text("- a list\n")
    (train(dann(made, 1)) / "model.safetensors").unlink()
    estimate = Estimate(made, "cpu")
    assert estimate.seconds(dann(made, 2)).origin == "measured"  # what seed 1 took is on record
    assert estimate.disk(dann(made, 2)).bound == ">="
    first, second = estimate.remarks()
    assert "spec.yaml: is not the spec of a job" in first and "its files are not as its run.json says" in second


def test_a_spec_of_another_version_is_counted_and_not_compared() -> None:
    made = plan(seeds=[0, 1])
    (train(dann(made)) / "spec.yaml").write_text("kind: train\nmethod: dann\n")
    estimate = Estimate(made, "cpu")
    assert estimate.seconds(dann(made, 1)) == Amount()
    assert estimate.remarks() == ["not compared, as another version wrote their spec.yaml: 1 of the finished jobs"]


def test_evaluations_are_told_by_benchmarks_of_the_same_images() -> None:
    made = plan(seeds=[0, 1])
    first, second = (labelled(made, f"evaluation of dann.main seed={seed}") for seed in (0, 1))
    train(dann(made))
    finish(first, seconds=12.5)
    assert seconds(made, first) == seconds(made, second) == Amount(12.5, "measured", device="cpu")
    assert seconds(made, second, GPU) == Amount(12.5, "elsewhere", "on cpu", "cpu")  # where its run was trained
    assert Estimate(made, "cpu").disk(second).origin == "measured"
    more = plan(seeds=[1], datasets={"toytown_target": {"counts": {"train": 4, "val": 2, "test": 3}}})
    assert seconds(more, labelled(more, "evaluation of dann.main seed=1")) == Amount()
    flipped = plan(seeds=[1], evaluate={"protocol": {"flip": True}})
    assert seconds(flipped, labelled(flipped, "evaluation of dann.main seed=1")) == Amount()


def test_an_evaluation_without_a_benchmark_has_no_time() -> None:
    made = plan()
    train(dann(made))
    job = labelled(made, "evaluation of dann.main seed=0")
    finish(job)
    assert seconds(made, job) == Amount()
    write_text(Path("logs") / f"{job.folder}.benchmark.tsv", "s\n")
    estimate = Estimate(made, "cpu")
    assert estimate.seconds(job) == Amount() and "is no benchmark" in estimate.remarks()[0]


def test_sets_are_told_by_sets_that_were_drawn_alike() -> None:
    made = plan()
    old = labelled(made, "data set toytown_source")
    prepared(old, {"train": 4})
    measured(old, 30)
    assert seconds(made, old) == Amount(30.0, "measured")
    assert Estimate(made, "cpu").disk(old).value == BYTES + Path(old.marker).stat().st_size
    other = plan(datasets={"toytown_source": {"world": 5}})
    new = labelled(other, "data set toytown_source")
    assert seconds(other, new) == Amount(30.0, "derived", "from a job with other data")
    assert Estimate(other, "cpu").disk(new).origin == "derived"
    more = plan(datasets={"toytown_source": {"counts": {"train": 5}}})
    job = labelled(more, "data set toytown_source")
    assert seconds(more, job) == Estimate(more, "cpu").disk(job) == Amount()
    Path(old.marker).write_text("[]")
    assert "describes no prepared set" in Estimate(made, "cpu").remarks()[0]


def test_a_report_is_told_by_the_one_before() -> None:
    made = plan()
    measured(made.report, 8)
    assert seconds(made, made.report) == Amount(8.0, "derived", "from the study's previous report")
    write_text(Path(made.report.marker), "{}")
    write_bytes(Path(made.report.folder) / "index.html", bytes(BYTES))
    assert seconds(made, made.report) == Amount(8.0, "measured")
    assert Estimate(made, "cpu").disk(made.report) == Amount(BYTES, "measured")


def test_a_download_is_as_large_as_what_must_be_in_it() -> None:
    made = plan(task={"target": {"dataset": "camvid"}, "classes": ["sky", "road"], "class_sets": {"both": ["sky"]}})
    (job,) = made.of_kind("download")
    found = Estimate(made, "cpu").disk(job)
    assert found.bound == ">=" and found.value == sum(length for length, _ in CamvidData.archive.files().values()) > 1e6


@pytest.mark.parametrize(
    ("rule", "bound", "count"),
    # Four images of 32 x 64: a byte for each pixel; or for each of 16 classes and each cell of 8 x 16.
    [("class_balanced", "<=", 4 * 32 * 64), ("entropy", ">=", 4 * 16 * 8 * 16)],
)
def test_labels_are_bounded_by_their_images(rule: str, bound: str, count: int) -> None:
    made = plan(**rounds(rule))
    (job,) = made.of_kind("label")
    found = Estimate(made, "cpu").disk(job)
    assert (found.value, found.origin, found.bound) == (count, "derived", bound)
    assert seconds(made, job) == Amount()


def test_labels_of_a_set_that_is_not_counted_yet_are_unknown_until_it_is_prepared() -> None:
    camera = {"kind": "folder", "root": "camera", "class_map": {"0": "road", "1": "sky"}}
    made = plan(datasets={"camera": camera}, task={"target": {"dataset": "camera"}}, **rounds())
    (job,) = made.of_kind("label")
    assert Estimate(made, "cpu").disk(job) == Amount()
    prepared(labelled(made, "data set camera"), {"train": 3})
    assert Estimate(made, "cpu").disk(job).value == 3 * 32 * 64


def test_labels_and_their_quality_are_told_by_those_of_another_seed() -> None:
    made = plan(seeds=[0, 1], **rounds())
    (first, second), (judged, waiting) = made.of_kind("label"), made.of_kind("quality")
    train(labelled(made, "mine.warm seed=0"))
    write_bytes(Path("build/labels/a.png"), bytes(BYTES))
    finish(first, seconds=20)
    finish(judged, seconds=3)
    assert seconds(made, second) == Amount(20.0, "measured", device="cpu")
    assert seconds(made, waiting) == Amount(3.0, "measured")
    disk = Estimate(made, "cpu").disk(second)
    assert disk.origin == "measured" and disk.value is not None and disk.value >= BYTES
    other = plan(seeds=[2], **rounds(portion=0.5))
    found = Estimate(other, "cpu").disk(other.of_kind("label")[0])
    assert (found.origin, found.note) == ("derived", "from a job with other labels")


def rounds(rule: str = "class_balanced", **labels: Any) -> dict[str, Any]:
    """Changes that make a recipe of two stages the study's only one: pseudo-labels of the first train the second."""
    last = {"method": "cbst", "init": {"student": "warm"}, "labels": {"of": "warm", "rule": rule} | labels}
    last["knobs"] = {"soft": rule == "entropy"}
    recipe = {"title": "Mine", "stages": {"warm": {"method": "source_only"}, "main": last}}
    return {"recipes": {"mine": recipe}, "run": ["mine"]}


def test_a_kind_of_job_that_nothing_is_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "strange", Kind(ReportSpec, "strange"))
    made = plan()
    strange = made.report.spec.model_copy(update={"kind": "strange", "output": "strange", "study": "tiny"})
    job = made.add(Job(strange, (dann(made),), "something new"))
    assert seconds(made, job) == Estimate(made, "cpu").disk(job) == Amount()
    assert "todo  strange   something new" in "\n".join(table(made, "cpu"))


@pytest.mark.parametrize("over", [{}, {"head": "squeeze_excite", "feature_norm": True}, {"name": "deeplabv2"}])
def test_the_weights_of_a_network_are_counted_without_it(over: dict[str, Any]) -> None:
    spec = dann(plan(network=over)).spec
    assert isinstance(spec, TrainSpec)
    if spec.network.name == "small":
        net = build_network(spec.network, 16, levels=1, seed=3)
        expected = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
        assert network_bytes(spec.network, 16) == (expected, 4 * sum(weight.numel() for weight in net.parameters()))
    else:
        assert network_bytes(spec.network, 19)[0] == pytest.approx(4 * 43.0e6, rel=0.05)  # DeepLabv2, ResNet-101
    assert torch.empty(0).device.type == "cpu"


def test_a_training_is_at_least_its_weights_and_its_checkpoints() -> None:
    made = plan(train={"iterations": 40}, evaluate={"monitor": None})
    spec = dann(made).spec
    assert isinstance(spec, TrainSpec)
    weights, trained = network_bytes(spec.network, len(spec.classes))
    estimate = Estimate(made, "cpu")
    assert estimate.disk(dann(made)) == Amount(2 * weights, "derived", "the network's weights alone", bound=">=")
    assert estimate.disk(dann(plan())).value == 3 * weights
    # Checkpoints after 2, 4, … 38 iterations; three lie there while the newest is written.
    assert estimate.checkpoints(dann(made)) == 3 * (weights + 2 * trained)
    sgd = {"optim": {"name": "sgd", "momentum": 0.9}, "network": {"norm": "eval"}}
    once = dann(plan(**sgd, train={"iterations": 3}))
    frozen = network_bytes(once.spec.network, 16)[1]  # type: ignore[union-attr]
    assert frozen < trained and estimate.checkpoints(once) == weights + frozen
    assert estimate.checkpoints(dann(plan(train={"iterations": 2}))) == 0
    train(dann(made))
    assert estimate.checkpoints(dann(made)) == estimate.checkpoints(made.report) == 0


def test_shared_ancestors_say_who_needs_them() -> None:
    recipes = {
        name: {"title": name, "stages": {"warm": {"method": "source_only"}, "main": {
            "method": "dann", "init": {"student": "warm"}, "knobs": {"hidden": width}}}}
        for name, width in (("first", 8), ("second", 16))
    }  # fmt: skip
    made = plan(recipes=recipes, run=["first", "second"], seeds=[0, 1])
    uses = {made.jobs[folder].label: text for folder, text in shared(made).items()}
    assert uses == {
        "data set toytown_source": "for 12 jobs, 2 recipes",
        "data set toytown_target": "for 12 jobs, 2 recipes",
        "data set objects": "for 13 jobs, 2 recipes",
        "pretraining on objects": "for 12 jobs, 2 recipes",
        "first.warm seed=0": "for 5 jobs, 2 recipes",  # two runs and the evaluations of three
        "first.warm seed=1": "for 5 jobs, 2 recipes",
    }
    alone = plan(run=["dann"], seeds=[0, 1])
    assert shared(alone)[labelled(alone, "pretraining on objects").folder] == "for 4 jobs, 1 recipe"
    assert shared(plan(run=["dann"])) == {}


def test_the_table_fits_and_sums_up() -> None:
    name = "a_recipe_whose_name_has_exactly_40_chars"
    recipe = {"title": "Long", "stages": {"a_stage_whose_name_has_exactly_40_letters"[:40]: {"method": "dann"}}}
    made = plan(recipes={name: recipe}, run=["source_only", "dann", name], seeds=[0, 1])
    train(dann(made), 900)
    old = labelled(made, "data set objects")
    prepared(old, {"train": 4})
    measured(old, 360)
    lines = table(made, "cpu")
    assert all(len(line) <= WIDTH for line in lines) and max(map(len, lines)) == WIDTH
    jobs = lines[: len(made.jobs)]
    assert [line[6:15].strip() for line in jobs] == [job.kind for job in made.jobs.values()]
    assert re.fullmatch(
        r"done  prepare   data set objects +for 13 jobs, 3 recipes +0.100 h measured +1.. kB measured", jobs[2]
    )
    assert re.fullmatch(r"todo  prepare   data set toytown_source +for 12 jobs, 3 recipes +unknown +unknown", jobs[0])
    assert [sum(f"1.0 h {origin}" in line for line in jobs) for origin in ("measured", "derived")] == [2, 2]
    assert any(line.startswith("todo  evaluate  evaluation of a_recipe") and "..ter seed=1 " in line for line in jobs)
    unknown = sum(line.startswith("todo") for line in jobs) - 3
    assert f"hours to do: 3.0 h on cpu (1 job measured, 2 jobs derived), unknown for {unknown} jobs" in lines


def test_when_all_is_done_nothing_is_to_do() -> None:
    made = plan(run=["dann"], evaluate={"report": None, "monitor": None})
    for job in made.jobs.values():
        write_text(Path(job.marker), '{"files": {}}')
    assert [line[:4] for line in table(made, "cpu")[: len(made.jobs)]] == ["done"] * len(made.jobs)
    assert "to do" not in "".join(table(made, "cpu"))


def test_numbers_are_short() -> None:
    assert [hours(seconds) for seconds in (0, 3, 4, 360, 3600, 360_000)] == [
        "<0.001 h", "<0.001 h", "0.001 h", "0.100 h", "1.0 h", "100.0 h",
    ]  # fmt: skip
    assert [size(count) for count in (0, 999, 999.6, 1500, 9949, 9951, 999_600, 174e6, 2.5e9, 3e15)] == [
        "0 B", "999 B", "1.0 kB", "1.5 kB", "9.9 kB", "10 kB", "1.0 MB", "174 MB", "2.5 GB", "3000 TB",
    ]  # fmt: skip


def test_the_device_that_is_here_is_named_as_torch_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for visible, name in (("0", "Name A"), ("MIG-cc33", "Name B MIG 3g.20gb"), ("", "cpu")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert device_here() == name
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert device_here() == "Name A"
