"""What params.yaml and a study may say, and what the messages about the rest name."""

from pathlib import Path
from typing import Any

import pytest
from support.project import load, tiny

from udaseg.config.schema import Params
from udaseg.data.datasets.folder import FolderData
from udaseg.errors import UserError
from udaseg.jobs.plan import make_plan
from udaseg.validation import Model, validate

UNLABELLED = "datasets: {mine: {kind: folder, root: x, labels: null, class_map: {'7': road}}}\n"
ON_MINE = UNLABELLED + "task: {target: {dataset: mine}}\n"
IN_DANN = "recipes: {dann: {stages: {main: {%s}}}}"
SOME_LABELS = IN_DANN % "train: {source: {labelled_target: {images: 3, finish: 0, order: paper}}}" + "\n"


@pytest.mark.parametrize(
    ("study", "message"),
    [
        # Misspelt keys, at every depth.
        ("trian: {}", "trian: unknown key; did you mean 'train'?"),
        ("train: {determinism: exact}", "train.determinism: .*'strict', 'warn' or 'fast'"),
        ("train: {instructions: avx2}", "train.instructions: .*'native' or 'portable'"),
        ("train: {iteratons: 3}", "train.iteratons: unknown key; did you mean 'iterations'?"),
        ("train: {source: {batsh: 3}}", "train.source.batsh: unknown key; did you mean 'batch'?"),
        ("datasets: {camvid: {versoin: 1}}", "datasets.camvid.versoin: unknown key; did you mean 'version'?"),
        ("datasets: {objects: {wrld: 1}}", "datasets.objects.wrld: unknown key; did you mean 'world'?"),
        ("datasets: {x: {kind: toytwon}}", "datasets.x.kind: 'toytwon' is not known; did you mean 'toytown'?"),
        ("datasets: {x: {version: 1}}", "datasets.x.kind: is required, but not given; known: toytown, objects, folder"),
        ("datasets: {objects: {counts: {trian: 3}}}", "datasets.objects.counts.trian: .* did you mean 'train'?"),
        ("evaluate: {protocol: {window: {size: [1, 2], strde: [1, 2]}}}", "window.strde: unknown key; .* 'stride'?"),
        ("methods: {dann: {knobs: {featur: layer4}}}", "methods.dann.knobs.featur: unknown key; .* 'feature'?"),
        ("methods: {dann: {weights: {domian: 1.0}}}", "methods.dann.weights: 'domian' .* did you mean 'domain'?"),
        ("methods: {dan: {knobs: {}, weights: {}}}", "methods: 'dan' is not known; did you mean 'dann'?"),
        (IN_DANN % "knob: {}", "recipes.dann.stages.main.knob: unknown key; did you mean 'knobs'?"),
        (IN_DANN % "knobs: {hiden: 3}", "recipes.dann.stages.main.knobs.hiden: unknown key; did you mean 'hidden'?"),
        (IN_DANN % "weights: {domian: 3.0}", "recipes.dann.stages.main.weights: 'domian' .* did you mean 'domain'?"),
        (IN_DANN % "train: {iteratons: 3}", "recipes.dann.stages.main.train.iteratons: .* 'iterations'?"),
        (IN_DANN % "train: {source: {flp: 3}}", "recipes.dann.stages.main.train.source.flp: .* 'flip'?"),
        (IN_DANN % "optim: {learning: 3}", "recipes.dann.stages.main.optim.learning: unknown key; known: .*lr"),
        (IN_DANN % "network: {dept: 50}", "recipes.dann.stages.main.network.dept: unknown key; .* 'depth'?"),
        # Names of things that are not there.
        ("run: [dan]", "run.0: 'dan' is not known; did you mean 'dann'?"),
        ("task: {target: {dataset: camvd}}", "task.target.dataset: 'camvd' is not known; did you mean 'camvid'?"),
        ("report: {oracle: orcle}", "report.oracle: 'orcle' is not known; did you mean 'oracle'?"),
        (IN_DANN % "method: dan", "recipes.dann.stages.main.method: 'dan' is not known; did you mean 'dann'?"),
        (IN_DANN % "init: {studnt: scratch}", "recipes.dann.stages.main.init: 'studnt' .* did you mean 'student'?"),
        (IN_DANN % "init: {student: warm}", "main.init.student: 'warm' is not known; known: scratch, pretrain, file:"),
        (IN_DANN % "init: {student: main}", "main.init.student: 'main' is not known"),
        # Wrong types.
        ("train: {iterations: 3.5}", "train.iterations: .*valid integer, found 3.5"),
        ("train: {iterations: '3'}", 'train.iterations: .*valid integer, found "3"'),
        ("run: dann", 'run: .*found "dann"'),
        ("train: 3", "train: .*found 3"),
        ("mirror: 3", "mirror: .*found 3"),
        ("task: {source: {size: [96]}}", "task.source.size.1: is required, but not given"),
        ("when: 2020-01-01", "only plain YAML values are allowed"),
        ("[1, 2]", "tiny.yaml: expected a mapping of parameters, found list"),
        ("a: {b", "tiny.yaml: cannot be read as YAML"),
        # Impossible values.
        ("network: {name: smal}", "network.name: 'smal' is not known; did you mean 'small'?"),
        ("evaluate: {report: tst}", "evaluate.report: .*found \"tst\"; did you mean 'test'?"),
        ("evaluate: {report: train}", "evaluate.report: .*'val' or 'test', found \"train\""),
        ("optim: {lr: 0.0}", "optim.lr: .*greater than 0, found 0"),
        ("optim: {lr: .nan}", "optim.lr: .*finite number, found NaN"),
        ("seeds: [-1]", "seeds.0: .*greater than or equal to 0, found -1"),
        ("seeds: [0, 1, 0]", "seeds: names 0 twice"),
        ("seeds: []", "seeds: .*at least 1 item"),
        ("run: [dann, dann]", "run: names dann twice"),
        ("train: {monitor_every: 7}", "train.monitor_every: 7 is not a multiple of log_every = 20"),
        (
            "train: {source: {crop: [200, 96]}}",
            r"train.source.crop: \[200, 96\] .*'toytown_source' is resized, \[96, 192",
        ),
        ("train: {target: {crop: [96, 200]}}", r"train.target.crop: \[96, 200\] .*'toytown_target'"),
        (IN_DANN % "train: {source: {crop: [200, 96]}}", "recipes.dann.stages.main.train.source.crop"),
        ("train: {source: {scale: [2.0, 1.0]}}", r"train.source.scale: \[2.0, 1.0\] is empty"),
        ("task: {classes: [road, road]}", "task.classes: names road twice"),
        ("task: {class_sets: {few: [road, raod]}}", "task.class_sets.few: 'raod' is not known; did you mean 'road'?"),
        ("task: {class_sets: {few: []}}", "task.class_sets.few: is empty"),
        ("task: {classes: [road, '']}", "task.classes.1: "),
        (
            "datasets: {toytown_target: {counts: {train: 4, val: 2}}}",
            "evaluate.report: .*'toytown_target' has no split",
        ),
        ("datasets: {toytown_source: {counts: {val: 4}}}", "task.source.dataset: .*no split 'train', only"),
        ("recipes: {none: {title: x, stages: {}}}", "recipes.none.stages: "),
        (IN_DANN % "knobs: {feature: layer5}", "main.knobs.feature: .*'layer3' or 'layer4'.*found \"layer5\""),
        (
            "recipes: {adaptsegnet: {stages: {main: {weights: {adv_aux: 0.1}}}}}",
            r"main.weights: the terms \['adv_aux'\] do not exist with these knobs",
        ),
        (IN_DANN % "weights: {seg: 0.0}", "main.weights.seg: 0 would turn off what dann learns from"),
        (
            "evaluate: {protocol: {window: {size: [32, 32], stride: [48, 32]}}}",
            r"window.stride: \[48, 32\] is larger than the window \[32, 32\]",
        ),
        ("train: {iterations: 3, iterations: 4}", "the key 'iterations' stands here twice"),
        # Characters that mean something to a shell.
        ("recipes: {'a b': {title: x, stages: {main: {method: dann}}}}", 'recipes.a b: .*pattern.*found "a b"'),
        ("task: {classes: ['a; rm -r', x]}", "task.classes.0: .*pattern"),
        ("datasets: {$(x): {kind: camvid}}", "datasets.*: .*pattern"),
        ("recipes: {dann: {title: '$(touch x)'}}", "recipes.dann.title: .*pattern"),
        ('mirror: "/tmp/a\\nb"', "mirror: .*pattern"),
        (IN_DANN % 'init: {student: "file:a\\tb"}', "main.init.student: .*pattern"),
        # A target without labels.
        (
            ON_MINE,
            "evaluate.monitor: the split 'val' of data set 'mine' has no labels .*labels is null.*set it to null",
        ),
        (ON_MINE + "evaluate: {monitor: null}", "evaluate.report: the split 'test' of data set 'mine' has no labels"),
        (
            ON_MINE + "evaluate: {monitor: null, report: null}",
            "run: recipe 'oracle' learns from labels of the target, but data set 'mine' has none",
        ),
        (UNLABELLED + "task: {source: {dataset: mine}}", "task.source.dataset: .*'mine' has no labels"),
        # Labelled target images.
        (
            ON_MINE + "evaluate: {monitor: null, report: null}\nrun: [source_only, dann]\n" + SOME_LABELS,
            "run: recipe 'dann' learns from labels of the target, but data set 'mine' has none",
        ),
        (SOME_LABELS.replace("dann", "oracle"), "labelled_target: oracle sees all labels of its images"),
        (SOME_LABELS.replace("3,", "0,"), "labelled_target.images: .*greater than or equal to 1, found 0"),
        (
            SOME_LABELS + "run: [dann]\ntask: {target: {size: [64, 64]}}\ntrain: {target: {crop: [64, 64]}}",
            r"train.source.crop: \[96, 96\] is larger than the images; .* 'toytown_target' is resized, \[64, 64\]",
        ),
        # How a recipe is scored.
        ("recipes: {dann: {protocol: {flp: true}}}", "recipes.dann.protocol.flp: unknown key; did you mean 'flip'?"),
        ("evaluate: {protocol: {aggregate: 1.5}}", "evaluate.protocol.aggregate: .*less than or equal to 1, found 1.5"),
        ("evaluate: {protocol: {fusion: highest}}", "evaluate.protocol.fusion: .*'mean' or 'max', found \"highest\""),
        # How labels are made.
        ("labels: {rule: argmx}", "labels.rule: .*found \"argmx\"; did you mean 'argmax'?"),
        ("labels: {prototypes: sorce}", "labels.prototypes: .*'target' or 'source', found \"sorce\".* 'source'?"),
        ("labels: {protocol: {aggregate: 0.5}}", "labels.protocol.aggregate: is for scores only; set it to null"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, study: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, study)


def test_every_problem_of_a_study_is_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, "trian: {}\noptim: {lr: -1.0}\nseeds: x")
    assert [word in str(caught.value) for word in ("trian", "optim.lr", "seeds", "params.yaml", "tiny.yaml")] == [
        True
    ] * 5


def test_an_unlabelled_target_without_scores_and_oracle_is_allowed(tmp_path: Path) -> None:
    study = load(tmp_path, ON_MINE + "evaluate: {monitor: null, report: null}\nrun: [source_only, dann]")
    assert not study.datasets["mine"].has_labels()


def test_the_oracle_is_only_asked_for_labels_where_it_runs(tmp_path: Path) -> None:
    labelled = load(tmp_path, {"run": ["oracle"]})
    assert labelled.datasets["toytown_target"].has_labels()


def test_a_number_with_an_exponent_needs_no_point(tmp_path: Path) -> None:
    weights = IN_DANN % "weights: {domain: 1e-3}"
    params = load(tmp_path, f"optim: {{lr: 1e-4}}\n{weights}").params
    assert params.optim.lr == 1e-4 and params.recipes["dann"].stages["main"].weights == {"domain": 1e-3}


def test_class_sets_of_a_study_with_other_classes_replace_those_of_params(tmp_path: Path) -> None:
    study = load(tmp_path, {"task": {"classes": ["road", "sky"], "class_sets": {"mIoU2": ["road", "sky"]}}})
    assert list(study.params.task.class_sets) == ["mIoU2"]


def test_null_takes_the_place_of_a_mapping(tmp_path: Path) -> None:
    window = {"size": [8, 8], "stride": [4, 4]}
    assert load(tmp_path, {"evaluate": {"protocol": {"window": window}}}).params.evaluate.protocol.window is not None
    assert load(tmp_path, {"evaluate": {"protocol": {"window": None}}}).params.evaluate.protocol.window is None


def test_a_stage_overrides_and_inherits(tmp_path: Path) -> None:
    over = {"train": {"iterations": 40}, "optim": {"lr": 0.5}, "network": {"norm": "eval"}, "weights": {"domain": 0.25}}
    study = load(tmp_path, {"recipes": {"dann": {"stages": {"main": over}}}, "train": {"iterations": 80}})
    stage = study.recipes["dann"].stages["main"]
    assert (stage.train.iterations, stage.optim.lr, stage.network.norm) == (40, 0.5, "eval")
    assert stage.weights == {"seg": 1.0, "domain": 0.25}
    assert stage.knobs["hidden"] == 128 and stage.knobs["gamma"] == 10.0
    other = study.recipes["source_only"].stages["main"]
    assert (other.train.iterations, other.optim.lr) == (80, study.params.optim.lr)


def test_a_folder_with_lists_has_the_splits_of_its_lists() -> None:
    plain: dict[str, Any] = {"kind": "folder", "root": "x", "class_map": {"7": "road"}}
    assert validate(FolderData, plain).splits() == ["train", "val", "test"]
    assert validate(FolderData, plain | {"lists": {"train": "train.txt"}}).splits() == ["train"]


def test_models_cannot_be_changed(tmp_path: Path) -> None:
    params: Params = load(tmp_path, {}).params
    with pytest.raises(ValueError, match="frozen"):
        params.study = "other"  # type: ignore[misc]


def test_a_prefix_stands_before_every_path() -> None:
    class Inner(Model):
        number: int

    class Outer(Model):
        inner: Inner

    with pytest.raises(UserError, match=r"^spec.yaml.inner.number: is required, but not given$"):
        validate(Outer, {"inner": {}}, "spec.yaml")


@pytest.mark.parametrize("change", [{"threads": 2}, {"determinism": "fast"}, {"instructions": "portable"}])
def test_what_decides_the_bytes_is_in_the_address_of_all_that_computes(tmp_path: Path, change: dict[str, Any]) -> None:
    def folders(**changes: Any) -> set[str]:
        made = make_plan(load(tmp_path, tiny(**changes)))
        return {job.folder for job in made.jobs.values() if job.kind in ("train", "label", "evaluate", "translate")}

    assert folders() and not folders() & folders(train=change)
