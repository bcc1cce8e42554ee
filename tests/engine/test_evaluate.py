"""Scoring a run: at the labels' native size, by the protocol that stands beside the numbers, of the data it names."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import CPU, EXACT, objects_spec, prepare_objects
from torch import nn

from udaseg.config.evaluation import Protocol
from udaseg.data.datasets.objects import NAMES
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.aggregated import Aggregated
from udaseg.engine.evaluate import evaluate
from udaseg.engine.metrics import confusion_matrix
from udaseg.engine.predict import PLAIN, load_predictor, predict_scores, predictions, to_tensor
from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.ops.maps import resize
from udaseg.runs.files import read_json, write_json, write_yaml
from udaseg.runs.folder import publish
from udaseg.runs.spec import EvaluateSpec
from udaseg.validation import validate

SETS = {"mIoU11": list(NAMES), "mIoU2": ["disc", "square"]}


def trained(spec, state, folder):
    Training(spec, METHODS[spec.method], state, CPU).run()
    write_yaml(state / "build" / "spec.yaml", spec.model_dump(mode="json"))
    publish(state / "build", folder, spec.folder, "train")
    return folder


@pytest.fixture(scope="module")
def run(source, target, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    changes = {"iterations": 12, "monitor_every": 4, "checkpoint_every": 12}
    return trained(objects_spec(source, target, train=changes, optim={"lr": 5e-3}), root / "state", root / "run")


def evaluate_spec(run, target, **changes):
    content = {
        "kind": "evaluate", "folder": f"{run}/evaluate-0", "run": str(run), "set": str(target), "split": "test",
        "classes": list(NAMES), "class_sets": SETS, "network": objects_spec(target, target).network.model_dump(),
        **EXACT, "protocol": PLAIN.model_dump(mode="json"), "pictures": 2, "code": "0",
    }  # fmt: skip
    return validate(EvaluateSpec, content | changes)


def evaluated(spec, build):
    (build / "pictures").mkdir(parents=True)
    evaluate(spec, build, CPU)
    return read_json(build / "metrics.json")


@pytest.fixture(scope="module")
def build(run, target, tmp_path_factory):
    build = tmp_path_factory.mktemp("evaluation") / "build"
    evaluated(evaluate_spec(run, target), build)
    return build


def test_metrics_are_those_of_the_predictions_at_native_size(build, run, target):
    metrics, prepared = read_json(build / "metrics.json"), PreparedSet(target)
    result = read_json(run / "result.json")
    for which, file in (("last", "model"), ("best", "best")):
        net = load_predictor(objects_spec(target, target).network, 11, run / f"{file}.safetensors", CPU)
        total = np.zeros((11, 11), dtype=np.int64)
        for name in prepared.names("test"):
            label = prepared.native_label("test", name)
            assert label.shape == (48, 72)
            scores = predict_scores(net, to_tensor(prepared.image("test", name)), (48, 72), PLAIN)
            total += confusion_matrix(scores.argmax(1)[0].numpy(), label, 11)
        found = metrics["scores"][which]
        assert found["confusion"] == total.tolist()
        assert {key: found[key] for key in ("iteration", "monitor")} == result[which]
        assert set(found["sets"]) == {"mIoU11", "mIoU2"}


def test_the_protocol_the_data_and_the_classes_stand_beside_the_numbers(build, target):
    metrics = read_json(build / "metrics.json")
    assert metrics["classes"] == list(NAMES)
    assert metrics["data"] == read_json(target / "set.json")["fingerprint"]
    assert metrics["protocol"] == {
        "window": None, "flip": False, "scales": [1.0], "fusion": "mean", "aggregate": None,
        "dataset": "objects", "split": "test", "input": [32, 48], "images": 3,
        "resize": "logits to the label's native size, bilinear, align_corners=True, then argmax",
    }  # fmt: skip


def test_pictures_are_the_first_predictions_of_the_last_weights(build, run, target):
    prepared = PreparedSet(target)
    net = load_predictor(objects_spec(target, target).network, 11, run / "model.safetensors", CPU)
    expected = {name: found for name, found, _ in predictions(net, prepared, "test", PLAIN, CPU)}
    names = prepared.names("test")[:2]
    assert sorted(path.stem for path in (build / "pictures").iterdir()) == names
    for name in names:
        picture = np.asarray(Image.open(build / "pictures" / f"{name}.png"))
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, expected[name])


def test_the_same_again_gives_the_same_bytes(build, run, target, tmp_path):
    evaluated(evaluate_spec(run, target), tmp_path / "build")
    assert (tmp_path / "build" / "metrics.json").read_bytes() == (build / "metrics.json").read_bytes()


def test_another_protocol_is_another_result_and_is_noted(build, run, target, tmp_path):
    protocol = {
        "window": {"size": [32, 32], "stride": [16, 16]},
        "flip": True,
        "scales": [1.0, 1.5],
        "fusion": "mean",
        "aggregate": None,
    }
    metrics = evaluated(evaluate_spec(run, target, protocol=protocol), tmp_path / "build")
    assert protocol.items() <= metrics["protocol"].items()
    assert metrics["scores"]["last"]["confusion"] != read_json(build / "metrics.json")["scores"]["last"]["confusion"]


def test_the_highest_logits_may_be_scored(run, target, tmp_path):
    protocol = PLAIN.model_dump(mode="json") | {"flip": True, "scales": [1.0, 1.5], "fusion": "max"}
    metrics = evaluated(evaluate_spec(run, target, protocol=protocol), tmp_path / "build")
    net = load_predictor(objects_spec(target, target).network, 11, run / "model.safetensors", CPU)
    prepared = PreparedSet(target)
    total = np.zeros((11, 11), dtype=np.int64)
    for name in prepared.names("test"):
        image, passes = to_tensor(prepared.image("test", name)), []
        larger = nn.functional.interpolate(image, (48, 72), mode="bilinear", antialias=True)
        with torch.no_grad():
            for view in (image, larger):
                passes += [resize(net(view).logits, (48, 72)), resize(net(view.flip(-1)).logits.flip(-1), (48, 72))]
        highest = torch.stack(passes).amax(0).argmax(1)[0]
        total += confusion_matrix(highest.numpy(), prepared.native_label("test", name), 11)
    assert metrics["scores"]["last"]["confusion"] == total.tolist()
    assert protocol.items() <= metrics["protocol"].items()
    averaged = evaluated(evaluate_spec(run, target, protocol=protocol | {"fusion": "mean"}), tmp_path / "averaged")
    assert averaged["scores"]["last"]["confusion"] != total.tolist()


def test_with_one_pass_both_fusions_score_alike(build, run, target, tmp_path):
    protocol = PLAIN.model_dump(mode="json") | {"fusion": "max"}
    metrics = evaluated(evaluate_spec(run, target, protocol=protocol), tmp_path / "build")
    assert metrics["scores"] == read_json(build / "metrics.json")["scores"]


def test_scores_of_aggregated_predictions_have_names_of_their_own(build, run, target, tmp_path):
    protocol = PLAIN.model_dump(mode="json") | {"aggregate": 0.5}
    metrics = evaluated(evaluate_spec(run, target, protocol=protocol), tmp_path / "build")
    plain, prepared = read_json(build / "metrics.json"), PreparedSet(target)
    assert metrics["protocol"] == plain["protocol"] | {"aggregate": 0.5}
    for which, file in (("last", "model"), ("best", "best")):
        net = load_predictor(objects_spec(target, target).network, 11, run / f"{file}.safetensors", CPU)
        found = predictions(Aggregated(net, 0.5), prepared, "test", PLAIN, CPU)
        total = sum(confusion_matrix(predicted, label, 11) for _, predicted, label in found)
        scored, other = metrics["scores"][which], plain["scores"][which]
        assert scored["confusion"] == total.tolist()
        assert list(scored["sets"]) == ["mIoU11_aggregated", "mIoU2_aggregated"]
        assert scored["monitor"] == other["monitor"]  # of plain predictions, while it was trained
    assert metrics["scores"]["last"]["confusion"] != plain["scores"]["last"]["confusion"]


def test_a_run_that_was_never_monitored_has_no_best(source, target, tmp_path):
    spec = objects_spec(source, target, monitor=None, train={"iterations": 1})
    run = trained(spec, tmp_path / "state", tmp_path / "run")
    assert list(evaluated(evaluate_spec(run, target), tmp_path / "build")["scores"]) == ["last"]


class TestRefused:
    def test_an_unfinished_or_damaged_run(self, source, target, tmp_path):
        run = trained(objects_spec(source, target, train={"iterations": 1}), tmp_path / "state", tmp_path / "run")
        (run / "run.json").rename(run / "elsewhere.json")
        with pytest.raises(UserError, match="run: not a finished run"):
            evaluated(evaluate_spec(run, target), tmp_path / "build")
        (run / "elsewhere.json").rename(run / "run.json")
        (run / "model.safetensors").write_bytes(b"")
        with pytest.raises(UserError, match=r"run: not a finished run: .*Remove the folder"):
            evaluated(evaluate_spec(run, target), tmp_path / "again")

    def test_a_set_that_is_another_than_the_one_trained_on(self, source, tmp_path):
        counts = {"train": 2, "val": 1, "test": 1}
        target = prepare_objects(tmp_path, counts)
        run = trained(objects_spec(source, target, train={"iterations": 1}), tmp_path / "state", tmp_path / "run")
        content = read_json(target / "set.json")
        write_json(target / "set.json", content | {"fingerprint": "0" * 64})
        with pytest.raises(UserError, match=r"run: saw other content in .*objects-1 than is there now"):
            evaluated(evaluate_spec(run, target), tmp_path / "build")

    def test_a_split_without_labels(self, run, target, tmp_path):
        content = read_json(target / "set.json")
        content["splits"]["test"][0]["labelled"] = False
        (tmp_path / "set").mkdir()
        for split in target.iterdir():
            if split.is_dir():
                (tmp_path / "set" / split.name).symlink_to(split)
        write_json(tmp_path / "set" / "set.json", content)
        with pytest.raises(UserError, match=r"split test of set objects has no labels: '.*' can neither supervise nor"):
            evaluated(evaluate_spec(run, tmp_path / "set"), tmp_path / "build")


class Moody(nn.Module):
    """A network that notes in which mode it is used."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, images):
        self.modes.append(self.training)
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_a_failure(training, target):
    net = Moody().train(training)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(predictions(net, PreparedSet(target), "test", PLAIN, CPU))
    assert net.modes == [False] and net.training is training


def test_the_mode_is_restored_when_nobody_takes_the_rest(run, target):
    net = load_predictor(objects_spec(target, target).network, 11, run / "model.safetensors", CPU).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    protocol = Protocol(window=None, flip=True, scales=[1.0], fusion="mean", aggregate=None)
    found = predictions(net, PreparedSet(target), "test", protocol, CPU)
    next(found)
    found.close()
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
