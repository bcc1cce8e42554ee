"""Sweeps: which points they have, which jobs these share, what is skipped and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny, write_study

from udaseg.cli.main import main
from udaseg.errors import UserError
from udaseg.estimate.table import WIDTH, listed, table
from udaseg.jobs.job import Job, Plan, write_specs
from udaseg.jobs.plan import make_plan
from udaseg.runs.spec import LabelSpec, ReportRun, ReportSpec, TrainSpec, read_spec
from udaseg.study.load import load_study
from udaseg.study.rows import Study

CBST: dict[str, Any] = {
    "method": "cbst",
    "init": {"student": "warm"},
    "labels": {"of": "warm", "rule": "class_balanced"},
    "rounds": {
        "count": 2, "target": {"start": 0.2, "step": 0.05, "most": 0.5},
        "source": {"start": 0.5, "step": 0.1, "most": 1.0}, "growth": "paper", "lr_factor": 1.0,
    },
}  # fmt: skip
RECIPES: dict[str, Any] = {
    "two": {
        "title": "Two",
        "stages": {
            "warm": {"method": "source_only"},
            "main": {"method": "dann", "init": {"student": "warm"}, "knobs": {"hidden": 8}},
        },
    },
    "rounds": {"title": "Rounds", "stages": {"warm": {"method": "source_only"}, "round": CBST}},
    "staged": {
        "title": "Staged",
        "stages": {
            "warm": {"method": "source_only"},
            "one": {"method": "proda", "init": {"student": "warm"}, "labels": {"of": "warm", "rule": "soft"}},
            "last": {
                "method": "proda_distill",
                "init": {"student": "pretrain", "teacher": "one"},
                "labels": {"of": "one", "rule": "threshold"},
            },
        },
    },
}


def sweep(recipe: str = "two", title: str = "Mine", **content: Any) -> dict[str, Any]:
    return {"title": title, "recipe": recipe} | content


def study(folder: Path, listed: bool = True, run: tuple[str, ...] = ("two",), **content: Any) -> Study:
    """A study with one sweep, `mine`."""
    sweeps = {"mine": sweep(**content)}
    return load(folder, tiny(recipes=RECIPES, run=list(run), sweeps=sweeps, sweep=["mine"] if listed else []))


def plan(folder: Path, **content: Any) -> Plan:
    return make_plan(study(folder, **content))


def report(made: Plan) -> ReportSpec:
    assert isinstance(made.report.spec, ReportSpec)
    return made.report.spec


def finals(made: Plan) -> dict[str, ReportRun]:
    """The runs of the points by point, of the first seed."""
    runs = [run for run in report(made).runs if run.sweep and run.final and run.seed == 0]
    return {run.recipe.removeprefix(f"{run.sweep}/"): run for run in runs}


def trained(made: Plan, run: ReportRun) -> TrainSpec:
    spec = made.jobs[run.run].spec
    assert isinstance(spec, TrainSpec)
    return spec


def trainings(made: Plan) -> dict[str, Job]:
    return {job.folder: job for job in made.of_kind("train")}


GRID = {"main.knobs.gamma": [5.0, 10.0], "main.weights.domain": [0.5, 1.0]}


def test_a_grid_has_every_combination(tmp_path: Path) -> None:
    made = plan(tmp_path, over=GRID)
    assert list(finals(made)) == [
        "gamma=5.0, domain=0.5", "gamma=5.0, domain=1.0", "gamma=10.0, domain=0.5", "gamma=10.0, domain=1.0",
    ]  # fmt: skip
    run = finals(made)["gamma=5.0, domain=0.5"]
    assert (run.sweep, run.base, run.title) == ("mine", "two", "Mine, gamma=5.0, domain=0.5")
    assert run.point == {"main.knobs.gamma": 5.0, "main.weights.domain": 0.5}
    spec = trained(made, run)
    assert (spec.knobs["gamma"], spec.knobs["hidden"], spec.weights["domain"]) == (5.0, 8, 0.5)
    (described,) = report(made).sweeps
    assert described.over == GRID and list(described.points.values()) == list(finals(made))
    assert set(described.points) < set(report(made).recipes) and described.recipe == "two"


def test_the_point_that_changes_nothing_is_the_recipes_own_run(tmp_path: Path) -> None:
    made = plan(tmp_path, over=GRID)
    own = next(run for run in report(made).runs if run.recipe == "two" and run.final)
    assert own.sweep is None and own.base is None and own.point == {}
    same = finals(made)["gamma=10.0, domain=1.0"]
    assert (same.run, same.evaluation) == (own.run, own.evaluation)
    # It is found by what it amounts to: the values are given here and defaults there.
    assert report(made).sweeps[0].reference == same.recipe
    assert report(plan(tmp_path, over={"main.knobs.gamma": [5.0]})).sweeps[0].reference is None
    # Pretraining, one warm-up for all, the recipe's own and three others.
    assert len(trainings(made)) == 6 and len({run.run for run in finals(made).values()}) == 4


def test_a_new_value_makes_its_jobs_only(tmp_path: Path) -> None:
    def jobs(values: list[float]) -> set[str]:
        made = plan(tmp_path, over=GRID | {"main.knobs.gamma": values}, run=("source_only", "two"))
        return {job.label for job in made.jobs.values() if job.kind != "report"}

    before, after = jobs([5.0, 10.0]), jobs([5.0, 10.0, 20.0])
    runs = {f"mine/gamma=20.0, domain={weight}, main seed=0" for weight in (0.5, 1.0)}
    assert before < after and after - before == runs | {f"evaluation of {run}" for run in runs}


def test_the_same_holds_for_folders(tmp_path: Path) -> None:
    before, after = (plan(tmp_path, over={"main.knobs.gamma": values}) for values in ([5.0], [5.0, 20.0]))
    new = set(after.jobs) - set(before.jobs)
    assert set(before.jobs) < set(after.jobs) and {after.jobs[folder].kind for folder in new} == {"train", "evaluate"}
    assert len(new) == 2


def test_a_change_of_an_early_stage_reaches_the_later_ones_of_its_point(tmp_path: Path) -> None:
    made = plan(tmp_path, over={"warm.optim.lr": [1e-3, 2e-3]})
    first, second = finals(made).values()
    assert trained(made, first).init != trained(made, second).init
    assert trained(made, first).optim == trained(made, second).optim
    assert [run.stage for run in report(made).runs if run.sweep] == ["warm", "main"] * 2


def test_points_are_named_and_may_take_another_recipe_or_end_earlier(tmp_path: Path) -> None:
    points = {
        "full": {},
        "no domain": {"main.weights.domain": 0.0},
        "warm-up (bound)": {"until": "warm"},
        "another": {"recipe": "rounds", "until": "round", "round.rounds.count": 1},
        "plain": {"recipe": "source_only"},
    }
    made = plan(tmp_path, points=points)
    runs = finals(made)
    assert list(runs) == list(points) and list(report(made).sweeps[0].points.values()) == list(points)
    assert [run.stage for run in runs.values()] == ["main", "main", "warm", "round1", "main"]
    assert [run.base for run in runs.values()] == ["two", "two", "two", "rounds", "source_only"]
    assert runs["warm-up (bound)"].run == runs["plain"].run and report(made).sweeps[0].over == {}
    assert trained(made, runs["no domain"]).weights["domain"] == 0


def test_the_sweeps_last_stage_is_that_of_its_recipe_only(tmp_path: Path) -> None:
    points = {"full": {}, "another": {"recipe": "rounds"}, "further": {"until": "last"}}
    runs = finals(plan(tmp_path, recipe="staged", until="one", points=points))
    assert {name: run.stage for name, run in runs.items()} == {"full": "one", "another": "round2", "further": "last"}


def test_every_part_of_a_stage_can_be_swept(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        recipe="staged",
        points={
            "knob": {"one.knobs.alpha": 1.0},
            "weight": {"one.weights.reg": 0},
            "optim": {"one.optim.lr": 0.5, "one.optim.clip_gradient": 1.0},
            "train": {"one.train.source.batch": 1, "one.train.source.rare": {
                "temperature": 0.1, "min_pixels": 3, "crop_share": 0.5}},
            "network": {"one.network.norm": "eval"},
            "labels": {"last.labels.threshold": 0.5, "last.labels.of": "warm"},
            "init": {"last.init.student": "one"},
        },
    )  # fmt: skip
    runs = {run.recipe.removeprefix("mine/"): run for run in report(made).runs if run.sweep and run.stage == "one"}
    specs = {name: trained(made, run) for name, run in runs.items()}
    assert specs["knob"].knobs["alpha"] == 1 and specs["weight"].weights["reg"] == 0
    assert (specs["optim"].optim.lr, specs["optim"].optim.clip_gradient) == (0.5, 1.0)
    assert specs["train"].train.source.batch == 1 and specs["train"].train.source.rare is not None
    assert specs["network"].network.norm == "eval"
    last = {name: trained(made, run) for name, run in finals(made).items()}
    labels = made.jobs[str(last["labels"].labels)].spec
    assert isinstance(labels, LabelSpec) and labels.labels.threshold == 0.5
    assert labels.run == last["labels"].init["teacher"].replace(runs["labels"].run, labels.run)
    assert last["init"].init == {"student": runs["init"].run, "teacher": runs["init"].run}


def test_seeds_of_a_sweep_are_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, over={"main.knobs.gamma": [5.0]}, seeds=[0, 7])
    seeds = [(run.sweep, run.seed) for run in report(made).runs if run.final]
    assert seeds == [(None, 0), ("mine", 0), ("mine", 7)]


def test_names_tell_parameters_of_equal_ends_apart(tmp_path: Path) -> None:
    made = plan(tmp_path, over={"warm.optim.lr": [1e-3], "main.optim.lr": [1e-4], "main.train.target.crop": [[16, 16]]})
    assert list(finals(made)) == ["warm.optim.lr=0.001, main.optim.lr=0.0001, main.train.target.crop=16x16"]


@pytest.mark.parametrize(
    ("recipe", "values", "reason"),
    [
        ("adaptsegnet", {"main.weights.adv_aux": [0.1]}, r"^main\.weights: the terms \['adv_aux'\] do not exist with"),
        ("two", {"main.weights.seg": [0.0]}, r"^main\.weights\.seg: 0 would turn off what dann learns from"),
        ("staged", {"one.labels.rule": ["argmax"]}, r"^one\.labels\.rule: 'argmax' gives no target\.soft"),
        ("staged", {"one.train.target.crop": [[30, 32]]}, r"^one\.train\.target\.crop: \[30, 32\] are not multiples"),
        ("two", {"main.train.source.crop": [[64, 64]]}, r"^main\.train\.source\.crop: \[64, 64\] is larger than"),
        ("two", {"main.train.log_every": [3]}, r"main\.train\.\S+: 2 is not a multiple of log_every = 3"),
        ("diga_plain", {"warmup.knobs.crdomix": [True]}, r"^warmup\.init: nothing for \['translator'\]"),
        ("diga", {"main.knobs.translator": ["lab"]}, r"^main\.init\.translator: with these knobs diga takes no"),
    ],
)
def test_what_does_not_go_together_is_skipped_with_its_reason(
    tmp_path: Path, recipe: str, values: dict[str, Any], reason: str
) -> None:
    made = plan(tmp_path, recipe=recipe, over=values)
    (left,) = report(made).skipped
    assert left.sweep == "mine" and re.search(reason, left.reason), left.reason
    assert not finals(made) and report(made).sweeps[0].points == {}
    assert left.point in " ".join(table(made, "cpu")).replace("\n", "")


def test_only_the_points_that_cannot_be_are_skipped(tmp_path: Path) -> None:
    over = {"main.knobs.levels": [1, 2], "main.weights.adv_aux": [0.0, 0.1]}
    made = plan(tmp_path, recipe="adaptsegnet", over=over)
    assert list(finals(made)) == ["levels=2, adv_aux=0.0", "levels=2, adv_aux=0.1"]
    assert [left.point for left in report(made).skipped] == ["levels=1, adv_aux=0.0", "levels=1, adv_aux=0.1"]


def test_a_recipe_that_needs_labels_of_the_target_is_skipped_where_there_are_none(tmp_path: Path) -> None:
    mine = {"kind": "folder", "root": "mine", "labels": None, "class_map": {"1": "road", "2": "sky"}}
    over = tiny(
        run=["source_only"], datasets={"mine": mine}, task={"target": {"dataset": "mine"}},
        evaluate={"monitor": None, "report": None}, sweep=["mine"],
        sweeps={"mine": sweep("source_only", points={"bound": {"recipe": "oracle"}, "own": {}})},
    )  # fmt: skip
    found = load(tmp_path, over)
    (left,) = found.skipped
    assert [row.name for row in found.rows] == [
        "source_only",
        "mine/own",
    ] and "learns from labels of the target" in left.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "tow", "over": GRID}, r"sweeps\.mine\.recipe: 'tow' is not known; did you mean 'two'\?"),
        ({"over": {"mian.weights.domain": [1.0]}}, r"sweeps\.mine\.over\.mian\.weights\.domain: 'mian' .* 'main'\?"),
        ({"over": {"main.weight.domain": [1.0]}}, r"over\.main\.weight\.domain: 'weight' .* mean 'weights'\?"),
        ({"over": {"main.weights.domian": [1.0]}}, r"over\.main\.weights: 'domian' .* did you mean 'domain'\?"),
        ({"over": {"main.knobs.gama": [1.0]}}, r"over\.main\.knobs\.gama: unknown key; did you mean 'gamma'\?"),
        ({"over": {"main.train.source.bach": [1]}}, r"over\.main\.train\.source\.bach: unknown key; .* 'batch'\?"),
        ({"over": {"main.optim.rate": [1.0]}}, r"over\.main\.optim\.rate: unknown key; known: .*lr"),
        ({"over": {"main.network.dept": [50]}}, r"over\.main\.network\.dept: unknown key; did you mean 'depth'\?"),
        ({"over": {"main.labels.ruel": ["soft"]}}, r"over\.main\.labels\.ruel: unknown key; did you mean 'rule'\?"),
        ({"over": {"main.labels.of": ["main"]}}, r"over\.main\.labels\.of: 'main' is not known; .*warm"),
        ({"over": {"main.init.studnt": ["warm"]}}, r"over\.main\.init: 'studnt' .* did you mean 'student'\?"),
        ({"over": {"main.init.student": ["wrm"]}}, r"over\.main\.init\.student: 'wrm' .* did you mean 'warm'\?"),
        ({"over": {"main.rounds.count": [1]}}, r"over\.main\.rounds\.target: is required, but not given"),
        ({"over": {"main.method": ["dann"]}}, r"over: 'main\.method' is no parameter; write STAGE\.PART\.NAME"),
        ({"over": {"main.method.name": ["dann"]}}, r"over\.main\.method\.name: 'method' is not known; known: init, kn"),
        # A value that is wrong by itself.
        ({"over": {"main.weights.domain": [1.0, "1,5"]}}, r'over\.main\.weights\.domain: .*valid number, found "1,5"'),
        ({"over": {"main.knobs.feature": ["layer4", "layer5"]}}, r"over\.main\.knobs\.feature: .*found \"layer5\""),
        ({"over": {"main.optim.lr": [0.0]}}, r"over\.main\.optim\.lr: .*greater than 0, found 0"),
        ({"over": {"main.weights.domain.x": [1.0]}}, r"over\.main\.weights\.domain: .*valid number"),
        # The sweep itself.
        ({}, r"sweeps\.mine\.over: give either `over`"),
        ({"over": GRID, "points": {"full": {}}}, r"sweeps\.mine\.over: give either `over`"),
        ({"over": {}}, r"sweeps\.mine\.over: .*at least 1"),
        ({"over": {"main.knobs.gamma": []}}, r"sweeps\.mine\.over\.main\.knobs\.gamma: .*at least 1"),
        ({"over": {"main.knobs.gamma": [1.0, 2.0, 1.0]}}, r"over\.main\.knobs\.gamma: names 1\.0 twice"),
        ({"over": GRID, "seeds": [1, 1]}, r"sweeps\.mine\.seeds: names 1 twice"),
        ({"over": GRID, "until": "mian"}, r"sweeps\.mine\.until: 'mian' is not known; did you mean 'main'\?"),
        ({"over": GRID, "until": "warm"}, r"over\.main\.knobs\.gamma: 'main' is not known; known: warm"),
        ({"over": GRID, "sede": [1]}, r"sweeps\.mine\.sede: unknown key; did you mean 'seeds'\?"),
        ({"points": {"a/b": {}}}, r"sweeps\.mine\.points\.a/b: .*pattern"),
        ({"points": {"one": {"recipe": "tow"}}}, r"sweeps\.mine\.points\.one\.recipe: 'tow' .* 'two'\?"),
        ({"points": {"one": {"until": "mian"}}}, r"sweeps\.mine\.points\.one\.until: 'mian' .* 'main'\?"),
        ({"points": {"one": {"recpe": "two"}}}, r"points\.one: 'recpe' is no parameter"),
        ({"points": {"one": {"recipe": "rounds", "main.knobs.gamma": 1.0}}}, r"one\.main\.\S+ 'main' .*: warm, round"),
    ],
)  # fmt: skip
def test_a_mistake_stops_before_any_job(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    """Also in a sweep that the study does not list."""
    with pytest.raises(UserError, match=message):
        study(tmp_path, listed=False, **content)


def test_a_study_lists_sweeps_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.0: 'pipa_term' is not known; did you mean 'pipa_terms'\?"):
        load(tmp_path, tiny(sweep=["pipa_term"]))
    with pytest.raises(UserError, match=r"sweep: names pipa_terms twice"):
        load(tmp_path, tiny(sweep=["pipa_terms", "pipa_terms"]))


def test_what_a_study_does_not_list_is_not_planned(tmp_path: Path) -> None:
    some = study(tmp_path, listed=False, over=GRID)
    assert [row.name for row in some.rows] == ["two"] and report(make_plan(some)).sweeps == []


def test_a_sweep_can_be_taken_without_being_listed(tmp_path: Path) -> None:
    study(tmp_path, listed=False, over=GRID)
    assert {row.sweep for row in load_study(tmp_path / "params.yaml", "tiny", "mine").rows} == {None, "mine"}
    with pytest.raises(UserError, match=r"^--sweep: 'mien' is not known; did you mean 'mine'\?"):
        load_study(tmp_path / "params.yaml", "tiny", "mien")
    study(tmp_path, over=GRID)
    assert load_study(tmp_path / "params.yaml", "tiny", "mine").params.sweep == ["mine"]


def test_specs_of_a_sweep_are_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = {"main.train.target.crop": [[16, 16], [30, 32]], "main.optim.clip_gradient": [None, 1.0]}
    made = plan(tmp_path, over=over)
    monkeypatch.chdir(tmp_path)
    write_specs(made)
    assert read_spec(ReportSpec, made.report.spec_path) == made.report.spec


def test_the_jobs_of_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan(tmp_path, over=GRID, run=("dann", "oracle"))
    jobs = listed(made, "mine")
    kinds = [job.kind for job in jobs]
    # Pretraining, warm-up and four points; of the recipes of `run` there is nothing.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"prepare": 3, "train": 6, "evaluate": 5}
    assert {job.spec.method for job in jobs if isinstance(job.spec, TrainSpec)} == {"source_only", "dann"}
    assert not any(job.label.startswith(("dann.", "oracle.")) for job in jobs)
    lines = table(made, "cpu", "mine")
    assert [line[6:15].strip() for line in lines[: len(jobs)]] == kinds and all(len(line) <= WIDTH for line in lines)
    assert listed(made, None) == list(made.jobs.values())


def test_plan_shows_one_sweep_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    over = {"main.knobs.gamma": [5.0, 10.0], "main.weights.seg": [0.0, 1.0]}
    write_study(tmp_path, tiny(recipes=RECIPES, run=["dann"], sweeps={"mine": sweep(over=over)}))
    before = sorted(tmp_path.rglob("*"))
    assert main(["plan", "--study", "tiny", "--sweep", "mine"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "sweep mine of study tiny: 10 jobs, 0 done, 10 to do"
    assert "todo  train     mine/gamma=5.0, seg=1.0, main seed=0" in text and "hours to do: unknown for 10 jobs" in text
    assert "skipped: mine/gamma=5.0, seg=0.0: main.weights.seg: 0 would turn off what dann learns from" in text
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["plan", "--study", "tiny", "--sweep", "mien"]) == 1
    assert "--sweep: 'mien' is not known; did you mean 'mine'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--sweep", "mine", "--write"])
