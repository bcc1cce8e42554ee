"""A run from its spec to its result: what it writes, what it refuses, and what nothing in it may depend on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import CPU, objects_spec, prepare_objects

from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Method, MethodSpec, supervised
from udaseg.runs.files import read_json, read_lines, write_json, write_yaml
from udaseg.runs.folder import publish

RESULT = ("model.safetensors", "state.safetensors", "best.safetensors", "history.jsonl", "result.json")


def train(spec, state, method=None):
    training = Training(spec, method or METHODS[spec.method], state, CPU)
    training.run()
    return state / "build"


def contents(build, names=RESULT):
    return {name: (build / name).read_bytes() for name in names}


def finish(spec, state, folder):
    """Train, and publish as the train verb does."""
    build = train(spec, state)
    write_yaml(build / "spec.yaml", spec.model_dump(mode="json"))
    publish(build, folder, spec.folder, "train")
    return folder


@pytest.fixture(scope="module")
def build(source, target, tmp_path_factory):
    return train(objects_spec(source, target, "adabn"), tmp_path_factory.mktemp("run"))


class TestResult:
    def test_the_files_are_as_specified(self, build, source, target):
        result = read_json(build / "result.json")
        fingerprints = {name: read_json(path / "set.json")["fingerprint"] for name, path in
                        (("source", source), ("target", target))}  # fmt: skip
        monitored = [line for line in read_lines(build / "history.jsonl") if "monitor" in line]
        scores = {line["iteration"]: line["monitor"]["mIoU11"] for line in monitored}
        best = max(scores, key=lambda iteration: (scores[iteration], -iteration))
        assert result == {
            "last": {"iteration": 6, "monitor": scores[6]},
            "best": {"iteration": best, "monitor": scores[best]},
            "matched": {},
            "data": fingerprints,
            "input": [32, 48],
        }
        cost = read_json(build / "cost.json")
        assert (cost["iterations"], cost["attempts"], cost["device"]) == (6, 1, "cpu")
        assert 0 < cost["seconds_per_iteration"] < cost["seconds"]
        assert 50 < cost["peak_memory_mib"] < 50_000

    def test_the_history_has_terms_rates_and_the_monitored_split_and_no_clock(self, build):
        lines = read_lines(build / "history.jsonl")
        logged = [line for line in lines if "terms" in line]
        assert [line["iteration"] for line in logged] == [1, 2, 3, 4, 5, 6]
        for line in logged:
            assert set(line) == {"iteration", "terms", "logs", "lr"}
            assert set(line["terms"]) == {"seg"} and set(line["lr"]) == {"network"}
        monitored = [line for line in lines if "monitor" in line]
        assert [line["iteration"] for line in monitored] == [2, 4, 6]
        for line in monitored:
            assert set(line) == {"iteration", "monitor"}
            assert set(line["monitor"]) == {"split", "mIoU11", "iou"}
            assert line["monitor"]["split"] == "val" and len(line["monitor"]["iou"]) == 11

    def test_the_weights_are_those_of_the_predictor(self, build):
        model, state, best = (load_file(build / f"{name}.safetensors") for name in ("model", "state", "best"))
        assert {f"net.{name}" for name in model} == set(state)
        assert set(best) == set(model)
        assert all(torch.equal(state[f"net.{name}"], tensor) for name, tensor in model.items())

    def test_lines_of_the_log_are_means_of_their_window(self, source, target, build, tmp_path):
        changes = {"log_every": 3, "monitor_every": 3, "checkpoint_every": 3}
        windows = read_lines(train(objects_spec(source, target, "adabn", train=changes), tmp_path) / "history.jsonl")
        fine = [line["terms"]["seg"] for line in read_lines(build / "history.jsonl") if "terms" in line]
        coarse = [line["terms"]["seg"] for line in windows if "terms" in line]
        assert coarse == pytest.approx([sum(fine[:3]) / 3, sum(fine[3:]) / 3])

    def test_the_best_is_the_first_of_the_highest_scores_and_not_defined_ones_never(
        self, source, target, tmp_path, monkeypatch
    ):
        given = iter([None, 0.25, 0.5, 0.5, None, 0.125])
        monkeypatch.setattr(
            "udaseg.engine.train.scores",
            lambda total, classes, sets: {"sets": dict.fromkeys(sets, next(given)), "iou": {}},
        )
        changes = {"monitor_every": 1}
        build = train(objects_spec(source, target, train=changes), tmp_path)
        result = read_json(build / "result.json")
        assert result["best"] == {"iteration": 3, "monitor": 0.5}
        assert result["last"] == {"iteration": 6, "monitor": 0.125}
        # They are the weights of a run that ends there.
        short = {"train": {"iterations": 3}, "optim": {"schedule_iterations": 6}, "monitor": None}
        once = train(objects_spec(source, target, **short), tmp_path / "once")
        assert (build / "best.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()

    def test_without_a_target_nothing_is_monitored(self, source, tmp_path):
        build = train(objects_spec(source, None), tmp_path)
        result = read_json(build / "result.json")
        assert result["last"] == {"iteration": 6, "monitor": None}
        assert "best" not in result and not (build / "best.safetensors").exists()
        assert list(result["data"]) == ["source"] and result["input"] == [32, 48]

    def test_the_loss_falls(self, source, target, tmp_path):
        changes = {"iterations": 30, "monitor_every": 30, "checkpoint_every": 30}
        build = train(objects_spec(source, target, train=changes, optim={"lr": 3e-3}), tmp_path)
        losses = [line["terms"]["seg"] for line in read_lines(build / "history.jsonl") if "terms" in line]
        assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


class TestNothingDependsOn:
    @pytest.mark.parametrize(
        "changes",
        [{"monitor_every": 1}, {"monitor_every": 6}, {"checkpoint_every": 1}, {"workers": 2}],
        ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
    )
    def test_how_it_is_looked_at_or_loaded(self, changes, build, source, target, tmp_path):
        other = train(objects_spec(source, target, "adabn", train=changes), tmp_path)
        names = RESULT if not changes.get("monitor_every") else ("model.safetensors", "state.safetensors")
        assert contents(other, names) == contents(build, names)

    def test_whether_it_is_monitored_at_all(self, build, source, target, tmp_path):
        other = train(objects_spec(source, target, "adabn", monitor=None), tmp_path)
        assert contents(other, ["state.safetensors"]) == contents(build, ["state.safetensors"])

    def test_but_on_the_seed(self, build, source, target, tmp_path):
        other = train(objects_spec(source, target, "adabn", seed=1), tmp_path)
        assert contents(other, ["model.safetensors"]) != contents(build, ["model.safetensors"])


class Spoilt(Method):
    """Its loss is not finite, or a diagnostic, or its weights are not, from an iteration on."""

    SPEC = MethodSpec(name="source_only", views={"seg": {"source"}})
    loss_at, diagnostic_at, weights_at = 100, 100, 100

    def losses(self, batch, step):
        loss = supervised(self.net(batch.source.image).logits, batch.source)
        step.log("confidence", float("nan") if step.index >= self.diagnostic_at else 1.0)
        yield {"seg": loss * (float("nan") if step.index >= self.loss_at else 1.0)}

    def after_step(self, carries, step):
        if step.index >= self.weights_at:
            with torch.no_grad():
                self.net.head.branches[0].bias.fill_(float("inf"))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"loss_at": 4}, "iteration 4: the loss term 'seg' of source_only is nan"),
        ({"diagnostic_at": 4}, "iteration 4: the diagnostic 'confidence' of source_only is nan"),
        ({"weights_at": 5}, r"iteration 6: 'net\.head\.branches\.0\.bias' of source_only is not finite"),
    ],
)
def test_what_is_not_finite_stops_and_the_last_checkpoint_stays_loadable(spoilt, message, source, target, tmp_path):
    spec = objects_spec(source, target, monitor=None, train={"iterations": 8})
    with pytest.raises(UserError, match=message):
        train(spec, tmp_path, type("Spoilt", (Spoilt,), spoilt))
    assert max(int(path.name.split("-")[1]) for path in tmp_path.glob("resume-*")) == 4
    assert not (tmp_path / "build" / "model.safetensors").exists()
    # With the cause removed the run goes on from there.
    training = Training(spec, Spoilt, tmp_path, CPU)
    assert training._resume() == 4
    assert len(read_lines(tmp_path / "build" / "history.jsonl")) == 4


class TestRefused:
    def test_a_weight_of_zero_for_what_is_learnt(self, source, target, tmp_path):
        with pytest.raises(UserError, match=r"weights\.seg: 0 would turn off what adabn learns from"):
            train(objects_spec(source, target, "adabn", weights={"seg": 0.0}), tmp_path)

    def test_a_set_of_other_classes_or_that_is_not_there(self, source, target, tmp_path):
        with pytest.raises(UserError, match=r"objects-1: has the classes \['background', .*the job's spec \['road'"):
            train(objects_spec(source, target).model_copy(update={"classes": ["road"]}), tmp_path)
        with pytest.raises(UserError, match=r"missing-1: not a prepared data set"):
            train(objects_spec(source, tmp_path / "missing-1"), tmp_path)

    def test_labels_that_are_not_there(self, source, target, tmp_path):
        content = read_json(target / "set.json")
        for split in ("train", "val"):
            content["splits"][split][0]["labelled"] = False
        unlabelled = tmp_path / "unlabelled"
        write_json(unlabelled / "set.json", content)
        with pytest.raises(UserError, match="unlabelled: the split train has no labels, which oracle learns from"):
            train(objects_spec(unlabelled, target, "oracle"), tmp_path)
        with pytest.raises(UserError, match=r"the split val has no labels, .*set evaluate\.monitor to null"):
            train(objects_spec(source, unlabelled), tmp_path)

    def test_a_parent_that_is_not_finished_damaged_or_saw_other_data(self, source, target, tmp_path):
        parent = finish(objects_spec(source, None, train={"iterations": 1}), tmp_path / "state", tmp_path / "parent")
        spec = objects_spec(source, target, init={"student": str(parent)})
        assert Training(spec, METHODS["source_only"], tmp_path / "child", CPU).context.matched == {"student": 1.0}

        changed = prepare_objects(tmp_path, {"train": 5})
        moved = read_json(parent / "run.json")
        (tmp_path / "other").mkdir()
        shutil.copytree(parent, tmp_path / "other" / "parent")
        other = tmp_path / "other" / "parent"
        write_yaml(other / "spec.yaml", objects_spec(changed, None).model_dump(mode="json"))
        publish_again(other, moved)
        with pytest.raises(UserError, match=r"parent: saw other content in .*objects-1 than is there now"):
            train(objects_spec(changed, target, init={"student": str(other)}), tmp_path / "child")

        (parent / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(UserError, match="parent: not a finished run"):
            train(spec, tmp_path / "child")


def publish_again(folder, marker):
    """Make a changed run folder whole again."""
    build = folder.with_name("build")
    build.mkdir()
    for name in marker["files"]:
        shutil.move(folder / name, build / name)
    publish(build, folder, marker["id"], marker["kind"])


def test_at_rate_zero_the_predictors_parameters_are_the_parents(source, target, tmp_path):
    parent = finish(objects_spec(source, None, train={"iterations": 2}), tmp_path / "state", tmp_path / "parent")
    knobs = {"width": 4, "layers": 2}
    spec = objects_spec(source, target, "adaptsegnet", knobs=knobs, init={"student": str(parent)}, seed=5)
    still = spec.model_copy(update={"optim": spec.optim.model_copy(update={"lr": 0.0})})
    trained = load_file(train(still, tmp_path / "child") / "model.safetensors")
    for name, tensor in load_file(parent / "model.safetensors").items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(trained[name], tensor), name


def test_the_result_of_a_run_is_json_without_gaps(build):
    for line in (build / "history.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)
