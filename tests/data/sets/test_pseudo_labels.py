"""Reading label folders, and what is said when something is not there."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from udaseg.data.sets.images import write_png
from udaseg.data.sets.pseudo_labels import PseudoLabels, class_counts, hardened, quartered
from udaseg.errors import UserError
from udaseg.runs.files import write_json

HARD = np.array([[0, 1, 255], [2, 2, 0]], dtype=np.uint8)
SOFT = torch.tensor([[[255, 0, 100]], [[0, 0, 100]], [[0, 0, 55]]], dtype=torch.uint8)


def folder(root, rule, thresholds=None):
    content = {
        "rule": rule, "classes": ["road", "sky", "car"], "thresholds": thresholds, "rare": ["car", "sky", "road"],
        "mine": ["car", "road"], "predicted": {}, "selected": {}, "images": 1, "data": "0123",
    }  # fmt: skip
    write_json(root / "labels.json", content)
    if rule in ("threshold", "class_balanced", "argmax"):
        (root / "labels").mkdir()
        write_png(root / "labels" / "street.png", HARD)
    else:
        (root / "soft").mkdir()
        save_file({"soft": SOFT}, root / "soft" / "street.safetensors")
    if rule in ("argmax", "soft"):
        tensors = {"prototypes": torch.ones(3, 2), "counts": torch.ones(3), "prior": torch.ones(3) / 3}
        save_file(tensors, root / "artifacts.safetensors")
    return root


def test_what_labels_json_says(tmp_path):
    labels = PseudoLabels(folder(tmp_path, "class_balanced", {"road": 0.5, "sky": 1.0, "car": 0.25}))
    assert (labels.rule, labels.classes, labels.data) == ("class_balanced", ["road", "sky", "car"], "0123")
    assert labels.mine == [2, 0]
    assert labels.thresholds == {"road": 0.5, "sky": 1.0, "car": 0.25}


@pytest.mark.parametrize("rule", ["threshold", "class_balanced", "argmax"])
def test_hard_labels(tmp_path, rule):
    labels = PseudoLabels(folder(tmp_path, rule))
    found = labels.hard("street")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, HARD)
    torch.from_numpy(found)[0, 0] = 1  # may be written to: torch warns of arrays that may not
    assert sorted(labels.artifacts()) == (["counts", "prior", "prototypes"] if rule == "argmax" else [])


@pytest.mark.parametrize("rule", ["entropy", "soft"])
def test_soft_labels(tmp_path, rule):
    labels = PseudoLabels(folder(tmp_path, rule))
    assert torch.equal(labels.soft("street"), SOFT)
    assert sorted(labels.artifacts()) == (["counts", "prior", "prototypes"] if rule == "soft" else [])


def test_the_most_probable_class_of_soft_labels():
    found = hardened(SOFT)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 255, 0]]  # nothing where all is 0; of equal ones the first


def test_pixels_of_each_class():
    assert class_counts(HARD, 3).tolist() == [2, 1, 2]
    assert class_counts(HARD, 5).tolist() == [2, 1, 2, 0, 0]
    assert class_counts(np.full((2, 2), 255, dtype=np.uint8), 2).tolist() == [0, 0]


@pytest.mark.parametrize("size", [(4, 4), (8, 20), (30, 46), (33, 41)])
def test_a_quarter_of_the_truth_is_that_of_the_nearest_pixels_corners_upon_corners(size):
    label = np.arange(size[0] * size[1], dtype=np.int64).reshape(size)
    found = quartered(label)
    assert found.shape == (size[0] // 4, size[1] // 4)
    for row, column in np.ndindex(found.shape):
        places = [i * (w - 1) / max(n - 1, 1) for i, w, n in zip((row, column), size, found.shape, strict=True)]
        chosen = np.unravel_index(found[row, column], size)
        assert all(abs(place - pixel) <= 0.5 for place, pixel in zip(places, chosen, strict=True))
    if min(found.shape) > 1:
        corners = np.ix_([0, -1], [0, -1])
        np.testing.assert_array_equal(found[corners], label[corners])


class TestRefused:
    def test_no_labels_at_all(self, tmp_path):
        with pytest.raises(UserError, match=r"nowhere: no pseudo-labels \(no labels\.json in it\)"):
            PseudoLabels(tmp_path / "nowhere")

    def test_hard_labels_of_a_soft_rule(self, tmp_path):
        labels = PseudoLabels(folder(tmp_path, "soft"))
        with pytest.raises(
            UserError, match=r"by the rule 'soft'; hard ones .* threshold and class_balanced and argmax"
        ):
            labels.hard("street")

    def test_soft_labels_of_a_hard_rule(self, tmp_path):
        labels = PseudoLabels(folder(tmp_path, "threshold"))
        with pytest.raises(UserError, match=r"by the rule 'threshold'; soft ones .* rules entropy and soft"):
            labels.soft("street")

    def test_an_image_without_a_label_file(self, tmp_path):
        with pytest.raises(UserError, match=r"labels/avenue\.png: there is no such file"):
            PseudoLabels(folder(tmp_path, "threshold")).hard("avenue")

    def test_a_soft_label_that_is_missing_or_damaged(self, tmp_path):
        labels = PseudoLabels(folder(tmp_path, "entropy"))
        with pytest.raises(UserError, match=r"soft/avenue\.safetensors: cannot be read .*; remove the folder"):
            labels.soft("avenue")
        (tmp_path / "soft" / "street.safetensors").write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"soft/street\.safetensors: cannot be read as safetensors"):
            labels.soft("street")

    @pytest.mark.parametrize("rule", ["argmax", "soft"])
    def test_prototypes_that_are_missing(self, tmp_path, rule):
        labels = PseudoLabels(folder(tmp_path, rule))
        (tmp_path / "artifacts.safetensors").unlink()
        with pytest.raises(UserError, match=r"artifacts\.safetensors: cannot be read as safetensors"):
            labels.artifacts()
