"""Labels of every rule against a computation by loops, their bytes, and what is left when a job fails."""

import math
import shutil
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.labelling import AVERAGED, PROTOCOL, QUARTER, RULE, SIZE, finished_run, label_spec, labelled, net_of
from support.tiny import CPU, relabel

from udaseg.cli.job_commands import run_job
from udaseg.config.evaluation import Protocol
from udaseg.data.datasets.objects import NAMES
from udaseg.data.sets.images import read_ids
from udaseg.data.sets.pseudo_labels import HARD, WITH_PROTOTYPES, PseudoLabels
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import load_tensors
from udaseg.engine.predict import to_tensor
from udaseg.errors import UserError
from udaseg.jobs.job import STATE, code_of
from udaseg.machine.devices import Device
from udaseg.offline.label import _probabilities, label
from udaseg.runs.files import read_json, write_json, write_yaml
from udaseg.runs.folder import is_whole, publish

C = len(NAMES)
RULES = ("threshold", "class_balanced", "entropy", "soft", "argmax")
HIGHEST = AVERAGED | {"fusion": "max"}
PROTOCOLS = [PROTOCOL, AVERAGED, HIGHEST]


def softmax(logits):
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def aligned(maps, size):
    """Bilinear resizing of (C, h, w) with aligned corners, cell by cell."""
    resized = np.zeros((len(maps), *size))
    for row in range(size[0]):
        for column in range(size[1]):
            y = row * (maps.shape[1] - 1) / (size[0] - 1)
            x = column * (maps.shape[2] - 1) / (size[1] - 1)
            top, left = min(int(y), maps.shape[1] - 2), min(int(x), maps.shape[2] - 2)
            down, right = y - top, x - left
            resized[:, row, column] = (
                (1 - down) * (1 - right) * maps[:, top, left]
                + (1 - down) * right * maps[:, top, left + 1]
                + down * (1 - right) * maps[:, top + 1, left]
                + down * right * maps[:, top + 1, left + 1]
            )
    return resized


@torch.no_grad()
def logits_and_embedding(net, image):
    outputs = net(image)
    return outputs.logits[0].double().numpy(), outputs.features["embedding"][0].double().numpy()


def probabilities(run, target, protocol=PROTOCOL):
    """Name -> (C, H, W) float64 of each training image."""
    net, prepared, found = net_of(run), PreparedSet(target), {}
    for name in prepared.names("train"):
        image, passes = to_tensor(prepared.image("train", name)), []
        for scale in protocol["scales"]:
            size = tuple(round(length * scale) for length in SIZE)
            view = (
                torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True) if scale != 1 else image
            )
            passes.append(aligned(logits_and_embedding(net, view)[0], SIZE))
            if protocol["flip"]:
                passes.append(aligned(logits_and_embedding(net, view.flip(-1))[0][..., ::-1], SIZE))
        highest = protocol["fusion"] == "max"
        found[name] = softmax(np.max(passes, 0)) if highest else np.mean([softmax(one) for one in passes], 0)
    return found


def class_thresholds(probs, portion, every):
    pools = [[] for _ in range(C)]
    for one in probs.values():
        predicted, confidence = one.argmax(0), one.max(0)
        for index in range(C):
            pools[index] += confidence[predicted == index].tolist()[::every]
    thresholds = []
    for pool in pools:
        count = math.floor(len(pool) * portion)
        thresholds.append(sorted(pool, reverse=True)[count - 1] if count else 1.0)
    return thresholds


def prediction_counts(probs):
    counts = Counter(int(index) for one in probs.values() for index in one.argmax(0).ravel())
    return {name: counts[index] for index, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def probs(run, target):
    return probabilities(run, target)


def test_the_network_of_these_tests_is_neither_sure_nor_blind(probs):
    highest = np.stack([one.max(0) for one in probs.values()])
    assert 0.2 < (highest > RULE["threshold"]).mean() < 0.8
    predicted = prediction_counts(probs)
    assert sum(count > 100 for count in predicted.values()) >= 4
    assert 0 in predicted.values()  # a class that is never predicted


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threshold_labels_what_is_more_probable_than_it(run, target, tmp_path, protocol):
    folder = labelled(tmp_path, run, target, protocol=protocol)
    found, selected = PseudoLabels(folder), Counter()
    for name, expected in probabilities(run, target, protocol).items():
        hard = found.hard(name)
        assert hard.shape == SIZE and hard.dtype == np.uint8
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                pixel = expected[:, row, column]
                if abs(pixel.max() - RULE["threshold"]) > 1e-5:
                    best = int(pixel.argmax()) if pixel.max() > RULE["threshold"] else 255
                    assert hard[row, column] == best
        selected.update(hard.ravel().tolist())
    content = read_json(folder / "labels.json")
    assert content["selected"] == {name: selected[index] for index, name in enumerate(NAMES)}
    assert content["thresholds"] is None


def test_a_probability_that_equals_the_threshold_is_not_above_it(run, target, tmp_path):
    assert not Counter(read_json(labelled(tmp_path, run, target, threshold=1.0) / "labels.json")["selected"]).total()


def test_class_balanced_thresholds_are_those_of_a_sort_and_labels_by_ratio(run, target, probs, tmp_path):
    folder = labelled(tmp_path, run, target, rule="class_balanced")
    thresholds = class_thresholds(probs, RULE["portion"], RULE["every"])
    content = read_json(folder / "labels.json")
    assert list(content["thresholds"]) == sorted(NAMES)
    found = [content["thresholds"][name] for name in NAMES]
    np.testing.assert_allclose(found, thresholds, atol=1e-6)
    assert [value == 1 for value in found] == [value == 1 for value in thresholds]
    labels, selected = PseudoLabels(folder), Counter()
    for name, one in probs.items():
        hard = labels.hard(name)
        ratios = one / np.array(thresholds)[:, None, None]
        expected = np.where(ratios.max(0) < 1, 255, ratios.argmax(0))
        clear = np.abs(ratios.max(0) - 1) > 1e-5
        np.testing.assert_array_equal(hard[clear], expected[clear])
        selected.update(hard.ravel().tolist())
    assert content["selected"] == {name: selected[index] for index, name in enumerate(NAMES)}
    assert Counter(content["selected"]).total() > 0


def test_class_balanced_thresholds_are_exact(run, target, tmp_path):
    """As stored: bit by bit the order statistic of the float32 confidences, which a sort finds."""
    folder = labelled(tmp_path, run, target, rule="class_balanced", every=1, protocol=AVERAGED)
    protocol = Protocol.model_validate(AVERAGED)
    kept = dict(_probabilities(net_of(run), PreparedSet(target), protocol, CPU))
    expected = class_thresholds({name: one[0].numpy() for name, one in kept.items()}, RULE["portion"], 1)
    assert list(PseudoLabels(folder).thresholds.values()) == [
        threshold for _, threshold in sorted(zip(NAMES, expected, strict=True))
    ]


def test_entropy_labels_are_sharpened_ratios_at_a_quarter(run, target, probs, tmp_path):
    folder = labelled(tmp_path, run, target, rule="entropy")
    thresholds = np.array(class_thresholds(probs, RULE["portion"], RULE["every"]))
    labels, alpha, none, selected = PseudoLabels(folder), RULE["sharpness"], 0, Counter()
    for name, one in probs.items():
        stored, small = labels.soft(name).numpy(), aligned(one, QUARTER)
        assert stored.shape == (C, *QUARTER) and stored.dtype == np.uint8
        for row in range(QUARTER[0]):
            for column in range(QUARTER[1]):
                p = small[:, row, column]
                q = (p / thresholds) ** (1 / alpha)
                q /= q.sum()
                kept, cost = -(q * np.log(p)).sum() + alpha * (q * np.log(q)).sum(), -(q * np.log(thresholds)).sum()
                if abs(kept - cost) < 1e-5:
                    continue
                expected = q if kept < cost else 0 * q
                assert np.abs(stored[:, row, column] / 255 - expected).max() <= 1 / 510 + 1e-5
                none += kept >= cost
                if kept < cost:
                    selected[int(stored[:, row, column].argmax())] += 1
    assert 0 < none < 3 * QUARTER[0] * QUARTER[1]
    assert read_json(folder / "labels.json")["selected"] == {n: selected[index] for index, n in enumerate(NAMES)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_soft_labels_are_probabilities_at_a_quarter_in_8_bits(run, target, tmp_path, protocol):
    folder = labelled(tmp_path, run, target, rule="soft", protocol=protocol)
    labels, predicted = PseudoLabels(folder), Counter()
    for name, one in probabilities(run, target, protocol).items():
        stored = labels.soft(name)
        assert stored.shape == (C, *QUARTER) and stored.dtype == torch.uint8
        expected = aligned(one, QUARTER)
        assert np.abs(stored.numpy() / 255 - expected).max() <= 1 / 510 + 1e-5
        predicted.update(expected.argmax(0).ravel().tolist())
    content = read_json(folder / "labels.json")
    assert content["predicted"] == {name: predicted[index] for index, name in enumerate(NAMES)}
    assert Counter(content["selected"]).total() == 3 * QUARTER[0] * QUARTER[1]  # none is left out


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_argmax_labels_every_pixel_with_its_most_probable_class(run, target, tmp_path, protocol):
    # The threshold is for another rule.
    folder = labelled(tmp_path, run, target, rule="argmax", protocol=protocol, threshold=1.0)
    found, selected = PseudoLabels(folder), Counter()
    for name, expected in probabilities(run, target, protocol).items():
        hard = found.hard(name)
        assert hard.shape == SIZE and hard.dtype == np.uint8
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                *_, second, first = sorted(expected[:, row, column])
                if first - second > 1e-5:
                    assert hard[row, column] == expected[:, row, column].argmax()
        selected.update(hard.ravel().tolist())
    content = read_json(folder / "labels.json")
    assert content["selected"] == content["predicted"] == {name: selected[index] for index, name in enumerate(NAMES)}
    assert selected.total() == 3 * math.prod(SIZE) and 255 not in selected
    assert content["thresholds"] is None


@pytest.mark.parametrize("rule", RULES)
def test_with_one_pass_both_fusions_are_the_same(run, target, tmp_path, rule):
    folders = [
        labelled(tmp_path / fusion, run, target, rule=rule, protocol=PROTOCOL | {"fusion": fusion})
        for fusion in ("mean", "max")
    ]
    first, second = (read_json(folder / "run.json")["files"] for folder in folders)
    assert first == second


def image_means(net, prepared, of_source=False):
    """For each class, the means of the images that show it, pixel by pixel at a quarter of the size.

    `of_source`: only of pixels whose prediction is the label of the pixel that lies nearest.
    """
    means, size = [[] for _ in range(C)], tuple(length // 4 for length in prepared.size)
    for name in prepared.names("train"):
        maps = logits_and_embedding(net, to_tensor(prepared.image("train", name)))
        logits, features = (aligned(one, size) for one in maps)
        label, pixels = prepared.label("train", name) if of_source else None, [[] for _ in range(C)]
        for row in range(size[0]):
            for column in range(size[1]):
                predicted = int(logits[:, row, column].argmax())
                # Corners lie upon corners; of two that are as near, the pixel with the even number.
                y, x = (
                    round(i * (w - 1) / (n - 1)) for i, w, n in zip((row, column), prepared.size, size, strict=True)
                )
                if label is None or label[y, x] == predicted:
                    pixels[predicted].append(features[:, row, column])
        for index, found in enumerate(pixels):
            if len(found) >= RULE["min_pixels"]:
                means[index].append(np.mean(found, axis=0))
    return means


def require_prototypes(folder, net, means):
    """The folder's prototypes and counts are those of these image means."""
    artifacts, width = PseudoLabels(folder).artifacts(), net.feature_channels["embedding"]
    assert sorted(artifacts) == ["counts", "prior", "prototypes"]
    assert all(tensor.dtype == torch.float32 for tensor in artifacts.values())
    assert artifacts["prototypes"].shape == (C, width)
    assert artifacts["counts"].tolist() == [len(one) for one in means]
    for index, one in enumerate(means):
        expected = np.mean(one, axis=0) if one else np.zeros(width)
        np.testing.assert_allclose(artifacts["prototypes"][index].numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", WITH_PROTOTYPES)
def test_prototypes_are_means_of_image_means_of_the_plain_pass(run, target, tmp_path, rule):
    folder = labelled(tmp_path, run, target, rule=rule, protocol=AVERAGED)
    net = net_of(run)
    means = image_means(net, PreparedSet(target))
    require_prototypes(folder, net, means)
    assert [] in means and max(map(len, means)) > 1


@pytest.mark.parametrize("rule", WITH_PROTOTYPES)
def test_the_prior_is_the_predicted_pixels_shares(run, target, tmp_path, rule):
    folder = labelled(tmp_path, run, target, rule=rule, protocol=AVERAGED)
    counts = Counter()
    for one in probabilities(run, target, AVERAGED).values():
        counts.update((one if rule in HARD else aligned(one, QUARTER)).argmax(0).ravel().tolist())
    prior = PseudoLabels(folder).artifacts()["prior"]
    assert prior.shape == (C,) and prior.dtype == torch.float32
    np.testing.assert_allclose(prior.numpy(), [counts[index] / counts.total() for index in range(C)], atol=1e-7)
    assert 0 in prior and prior.sum() == pytest.approx(1)


class TestPrototypesOfTheSource:
    """Of source pixels whose prediction is their label; the labels themselves are the target's, as ever."""

    def labels(self, root, run, target, source, rule="argmax"):
        spec = label_spec(run, target, source=source, rule=rule, prototypes="source", protocol=AVERAGED)
        label(spec, root / "build", CPU)
        publish(root / "build", root / "labels", "labels", "label")
        return root / "labels"

    @pytest.fixture
    def knowing(self, run, source, tmp_path):
        """The source set with labels that the network of the run is right about on the left and on every third row."""
        copy, net = tmp_path / "source", net_of(run)
        shutil.copytree(source, copy)
        prepared = PreparedSet(copy)
        for name in prepared.names("train"):
            logits, _ = logits_and_embedding(net, to_tensor(prepared.image("train", name)))
            known, truth = aligned(logits, prepared.size).argmax(0).astype(np.uint8), prepared.label("train", name)
            known[1::3, 20:], known[2::3, 20:] = truth[1::3, 20:], truth[2::3, 20:]
            known[:9, :9] = 255
            relabel(copy, name, known)
        return copy

    @pytest.mark.parametrize("rule", WITH_PROTOTYPES)
    def test_they_are_means_of_what_is_right_of_a_loop(self, knowing, run, target, tmp_path, rule):
        folder, net = self.labels(tmp_path, run, target, knowing, rule), net_of(run)
        means, whole = (image_means(net, PreparedSet(knowing), of_source=right) for right in (True, False))
        require_prototypes(folder, net, means)
        assert max(map(len, means)) == 2
        assert any(len(some) < len(every) for some, every in zip(means, whole, strict=True))

    def test_labels_and_prior_are_as_without(self, knowing, run, target, tmp_path):
        folder = self.labels(tmp_path / "source-prototypes", run, target, knowing)
        plain = labelled(tmp_path / "plain", run, target, rule="argmax", protocol=AVERAGED)
        first, second = (read_json(one / "run.json")["files"] for one in (folder, plain))
        assert {name for name in first if first[name] != second[name]} == {"artifacts.safetensors"}
        first, second = (PseudoLabels(one).artifacts() for one in (folder, plain))
        assert torch.equal(first["prior"], second["prior"])
        assert not torch.equal(first["prototypes"], second["prototypes"])

    def test_an_image_where_nothing_is_right_adds_nothing(self, knowing, run, target, tmp_path):
        prepared = PreparedSet(knowing)
        wrong, kept = prepared.names("train")
        relabel(knowing, wrong, np.full(prepared.size, 255, dtype=np.uint8))
        prepared = PreparedSet(knowing)
        net = net_of(run)
        means = image_means(net, prepared, of_source=True)
        assert max(map(len, means)) == 1
        require_prototypes(self.labels(tmp_path / "one", run, target, knowing), net, means)
        # A class that is there and never predicted is as wrong as no class.
        never = min(range(C), key=lambda index: prediction_counts(probabilities(run, target))[NAMES[index]])
        relabel(knowing, kept, np.full(prepared.size, never, dtype=np.uint8))
        artifacts = PseudoLabels(self.labels(tmp_path / "none", run, target, knowing)).artifacts()
        assert not artifacts["prototypes"].any() and not artifacts["counts"].any()

    def test_other_rules_look_at_no_source_image(self, run, target, tmp_path):
        folder = self.labels(tmp_path, run, target, None, rule="threshold")
        assert not (folder / "artifacts.safetensors").exists()

    def test_a_set_of_other_classes_is_refused(self, knowing, run, target, tmp_path):
        content = read_json(knowing / "set.json")
        write_json(knowing / "set.json", content | {"classes": content["classes"][::-1]})
        with pytest.raises(UserError, match=r"source: has the classes \['.*, the job's spec \['"):
            self.labels(tmp_path, run, target, knowing)

    def test_a_set_that_is_another_than_the_one_trained_on_is_refused(self, knowing, target, tmp_path):
        run = finished_run(tmp_path, knowing, target)
        write_json(knowing / "set.json", read_json(knowing / "set.json") | {"fingerprint": "0" * 64})
        with pytest.raises(UserError, match=r"run: saw other content in .*source than is there now"):
            self.labels(tmp_path, run, target, knowing)

    def test_a_set_without_labels_is_refused(self, knowing, run, target, tmp_path):
        relabel(knowing, PreparedSet(knowing).names("train")[0], None)
        with pytest.raises(UserError, match=r"split train of set objects has no labels"):
            self.labels(tmp_path, run, target, knowing)


@pytest.mark.parametrize("rule", RULES)
def test_labels_json(run, target, probs, tmp_path, rule):
    folder = labelled(tmp_path, run, target, rule=rule)
    content = read_json(folder / "labels.json")
    assert set(content) == {
        "rule", "classes", "thresholds", "rare", "mine", "predicted", "selected", "images", "data",
    }  # fmt: skip
    assert (content["rule"], content["classes"], content["images"]) == (rule, list(NAMES), 3)
    assert content["data"] == read_json(target / "set.json")["fingerprint"]
    counts = content["predicted"]
    if rule in HARD:
        assert counts == prediction_counts(probs)
    total = Counter(counts).total()
    assert total == 3 * math.prod(SIZE if rule in HARD else QUARTER)
    order = sorted(NAMES, key=lambda name: (counts[name], NAMES.index(name)))
    assert content["rare"] == order[:3]
    assert content["mine"] == [name for name in order if counts[name] < RULE["mine_below"] * total]
    assert all(content["selected"][name] <= total for name in NAMES)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = PreparedSet(target).names("train")
    kept = "labels/{}.png" if rule in HARD else "soft/{}.safetensors"
    artifacts = ["artifacts.safetensors"] if rule in WITH_PROTOTYPES else []
    assert files == sorted([*artifacts, "labels.json", "run.json", *(kept.format(name) for name in names)])


@pytest.mark.parametrize("rule", RULES)
def test_the_same_again_gives_the_same_bytes(run, target, tmp_path, rule):
    first, again = (labelled(tmp_path / name, run, target, rule=rule, protocol=AVERAGED) for name in ("a", "b"))
    assert read_json(first / "run.json")["files"] == read_json(again / "run.json")["files"]


def test_portion_0_labels_nothing(run, target, tmp_path):
    for rule in ("class_balanced", "entropy"):
        content = read_json(labelled(tmp_path / rule, run, target, rule=rule, portion=0.0) / "labels.json")
        assert set(content["selected"].values()) == {0}
        assert set(content["thresholds"].values()) == {1.0}


def test_portion_1_labels_every_pixel(run, target, tmp_path):
    folder = labelled(tmp_path, run, target, rule="class_balanced", portion=1.0, every=1)
    assert Counter(read_json(folder / "labels.json")["selected"]).total() == 3 * math.prod(SIZE)


@pytest.mark.parametrize("rule", RULES)
def test_a_network_that_predicts_one_class_only(source, target, tmp_path, rule):
    run = finished_run(tmp_path, source, target, bias=50.0)
    folder = labelled(tmp_path / "labels", run, target, rule=rule)
    content = read_json(folder / "labels.json")
    first, *others = NAMES
    assert content["predicted"][first] > 0 and not any(content["predicted"][name] for name in others)
    assert content["rare"] == others[:3] and content["mine"] == others
    assert not any(content["selected"][name] for name in others)
    if content["thresholds"] is not None:
        assert all(content["thresholds"][name] == 1 for name in others)
    if rule in WITH_PROTOTYPES:
        artifacts = load_tensors(folder / "artifacts.safetensors")
        assert artifacts["counts"].tolist() == [3.0] + [0.0] * (C - 1)
        assert not artifacts["prototypes"][1:].any()
        assert artifacts["prior"].tolist() == [1.0] + [0.0] * (C - 1)


class TestRefused:
    def test_a_run_that_is_not_there_or_not_finished(self, source, target, tmp_path):
        run = finished_run(tmp_path, source, target)
        (run / "run.json").unlink()
        with pytest.raises(UserError, match=r"run: not a finished run: run\.json is missing"):
            label(label_spec(run, target), tmp_path / "build", CPU)
        with pytest.raises(UserError, match=r"nowhere: not a finished run"):
            label(label_spec(tmp_path / "nowhere", target), tmp_path / "build", CPU)
        assert not (tmp_path / "build").exists()

    def test_a_set_that_is_another_than_the_one_trained_on(self, source, target, tmp_path):
        copy = tmp_path / "set"
        shutil.copytree(target, copy)
        run = finished_run(tmp_path, source, copy)
        write_json(copy / "set.json", read_json(copy / "set.json") | {"fingerprint": "0" * 64})
        with pytest.raises(UserError, match=r"run: saw other content in .*set than is there now"):
            label(label_spec(run, copy), tmp_path / "build", CPU)

    def test_a_set_of_other_classes(self, source, target, tmp_path):
        copy = tmp_path / "set"
        shutil.copytree(target, copy)
        run = finished_run(tmp_path, source, copy)
        content = read_json(copy / "set.json")
        write_json(copy / "set.json", content | {"classes": content["classes"][::-1]})
        with pytest.raises(UserError, match=r"set: has the classes \['.*, the job's spec \['"):
            label(label_spec(run, copy), tmp_path / "build", CPU)


class TestVerb:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("udaseg.machine.devices.take_device", lambda: Device("cpu"))
        return tmp_path / "results" / "label-0"

    def start(self, run, target, code=None, **changes):
        spec = label_spec(run, target, "results/label-0", **changes)
        spec = spec.model_copy(update={"code": code or code_of(spec)})
        write_yaml(Path("spec.yaml"), spec.model_dump(mode="json"))
        run_job(Namespace(verb="label", spec=Path("spec.yaml")))

    def test_labels_are_published_whole_and_made_once(self, folder, run, target, monkeypatch, capsys):
        self.start(run, target)
        assert is_whole(folder)
        assert read_json(folder / "run.json")["kind"] == "label"
        assert "spec.yaml" in read_json(folder / "run.json")["files"]
        monkeypatch.setattr("udaseg.offline.label.label", None)
        self.start(run, target)
        assert "finished already" in capsys.readouterr().err

    def test_a_failure_leaves_no_folder_and_the_next_attempt_begins_anew(self, folder, run, target, monkeypatch):
        def fail(*arguments):
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr("udaseg.offline.label._describe", fail)
            with pytest.raises(OSError, match="disk full"):
                self.start(run, target)
        assert not folder.exists()
        left = STATE / "results" / "label-0" / "build" / "labels"
        assert len(list(left.iterdir())) == 3
        shutil.copy(next(left.iterdir()), left / "of_other_data.png")
        self.start(run, target)
        assert is_whole(folder)
        assert sorted(path.stem for path in (folder / "labels").iterdir()) == PreparedSet(target).names("train")
        assert not left.exists()

    def test_other_code_than_planned(self, folder, run, target):
        with pytest.raises(UserError, match="the source code changed since the plan was made"):
            self.start(run, target, code="0123")
        assert not folder.exists()


def test_png_files_hold_train_ids(run, target, tmp_path):
    folder = labelled(tmp_path, run, target)
    for path in (folder / "labels").iterdir():
        assert set(np.unique(read_ids(path))) <= {*range(C), 255}
