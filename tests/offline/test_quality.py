"""How good labels are, against a loop over the pixels; and what is said where nobody knows the truth."""

import shutil
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest
from support.labelling import QUARTER, SIZE, labelled, quality_spec
from support.tiny import relabel

from udaseg.cli.job_commands import run_job
from udaseg.data.datasets.objects import NAMES
from udaseg.data.sets.images import read_ids
from udaseg.data.sets.pseudo_labels import HARD, PseudoLabels
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.jobs.job import code_of
from udaseg.offline.quality import quality
from udaseg.runs.files import read_json, write_json, write_yaml
from udaseg.runs.folder import is_whole

RULES = ("threshold", "class_balanced", "entropy", "soft", "argmax")


def judged(root, labels, target):
    quality(quality_spec(labels, target), root)
    return read_json(root / "quality.json")


def label_at(labels, name, row, column):
    """The class of a pixel or, of soft labels, cell; 255 where there is none."""
    if labels.rule in HARD:
        return int(labels.hard(name)[row, column])
    values = labels.soft(name)[:, row, column].tolist()
    return values.index(max(values)) if max(values) else 255


def unlabelled(target, folder):
    """The set without the label of one training image."""
    content = read_json(target / "set.json")
    content["splits"]["train"][1]["labelled"] = False
    shutil.copytree(target, folder)
    write_json(folder / "set.json", content)
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_the_numbers_are_those_of_a_loop(run, target, tmp_path, rule):
    # The network knows nothing: a low threshold, so that some of what it says is right by chance.
    folder = labelled(tmp_path, run, target, rule=rule, threshold=0.3, portion=0.6)
    labels, prepared = PseudoLabels(folder), PreparedSet(target)
    selected, truth, correct, seen, total = Counter(), Counter(), Counter(), Counter(), 0
    size = SIZE if rule in HARD else QUARTER
    for name in prepared.names("train"):
        true = prepared.label("train", name)
        for row in range(size[0]):
            for column in range(size[1]):
                total += 1
                # Where the cell lies in the image, corners upon corners; halfway between two pixels the even one.
                y, x = (round(i * (w - 1) / (n - 1)) for i, w, n in zip((row, column), SIZE, size, strict=True))
                found, there = label_at(labels, name, row, column), int(true[y, x])
                truth[there] += 1
                selected[found] += 1
                correct[found] += found == there
                seen[found] += there != 255
    content = judged(tmp_path, folder, target)
    for key, counts in (("selected", selected), ("truth", truth), ("correct", correct), ("judged", seen)):
        assert content[key] == {name: counts[index] for index, name in enumerate(NAMES)}, key
    assert Counter(content["correct"]).total() > 0
    assert content["selected"] == read_json(folder / "labels.json")["selected"]
    assert (content["classes"], content["rule"], content["images"]) == (list(NAMES), rule, 3)
    assert (content["labelled"], content["total"]) == (True, total)
    assert content["thresholds"] == labels.thresholds
    assert (content["thresholds"] is None) == (rule in ("threshold", "soft", "argmax"))


def test_ignored_pixels_judge_nothing(run, target, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(target, copy)
    for path in (copy / "train" / "labels").iterdir():
        label = read_ids(path)
        label[:10] = 255
        relabel(copy, path.stem, label)
    folder = labelled(tmp_path, run, copy, threshold=0.0)
    content = judged(tmp_path, folder, copy)
    assert Counter(content["selected"]).total() == content["total"] == 3 * SIZE[0] * SIZE[1]
    rest = 3 * (SIZE[0] - 10) * SIZE[1]
    assert Counter(content["judged"]).total() <= rest and Counter(content["truth"]).total() <= rest
    assert Counter(content["judged"]).total() == Counter(content["truth"]).total()


@pytest.mark.parametrize("rule", ["threshold", "soft"])
def test_without_the_truth_only_the_cover_is_counted(run, target, tmp_path, rule):
    folder = labelled(tmp_path, run, target, rule=rule)
    content = judged(tmp_path, folder, unlabelled(target, tmp_path / "set"))
    assert content["labelled"] is False
    assert content["truth"] is content["correct"] is content["judged"] is None
    assert content["selected"] == read_json(folder / "labels.json")["selected"]
    assert content["images"] == 3 and content["total"] > 0


def test_the_truth_is_not_looked_at_where_it_is_not_whole(run, target, tmp_path):
    folder, copy = labelled(tmp_path, run, target), unlabelled(target, tmp_path / "set")
    shutil.rmtree(copy / "train" / "labels")
    assert judged(tmp_path, folder, copy)["labelled"] is False


class TestRefused:
    @pytest.fixture
    def folder(self, run, target, tmp_path):
        return labelled(tmp_path, run, target)

    def test_labels_that_are_not_whole(self, folder, target, tmp_path):
        next((folder / "labels").iterdir()).write_bytes(b"")
        with pytest.raises(UserError, match="labels: not a finished run"):
            judged(tmp_path, folder, target)

    def test_a_set_of_other_images(self, folder, target, tmp_path):
        copy = tmp_path / "set"
        shutil.copytree(target, copy)
        write_json(copy / "set.json", read_json(copy / "set.json") | {"fingerprint": "0" * 64})
        with pytest.raises(UserError, match=r"labels: its labels are of other images than those of .*set"):
            judged(tmp_path, folder, copy)

    def test_other_classes(self, folder, target, tmp_path):
        with pytest.raises(UserError, match=r"labels: has the classes \['.*, the job's spec \['disc', 'square'\]"):
            quality(quality_spec(folder, target, classes=["disc", "square"]), tmp_path)


def test_the_verb_takes_no_device_and_publishes(run, target, tmp_path, monkeypatch):
    def take_device():
        raise AssertionError("a device was taken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("udaseg.machine.devices.take_device", take_device)
    spec = quality_spec(labelled(tmp_path, run, target), target, "results/quality-0")
    spec = spec.model_copy(update={"code": code_of(spec)})
    write_yaml(Path("spec.yaml"), spec.model_dump(mode="json"))
    run_job(Namespace(verb="quality", spec=Path("spec.yaml")))
    assert is_whole(Path("results/quality-0"))
    assert sorted(read_json(Path("results/quality-0/run.json"))["files"]) == ["quality.json", "spec.yaml"]
