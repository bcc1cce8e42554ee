"""Scores against scikit-learn's, and the cases that it has no word for: ignored pixels and absent classes."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from udaseg.engine.metrics import class_ious, confusion_matrix, scores
from udaseg.types import IGNORE


@st.composite
def maps(draw):
    """Number of classes, and pairs of prediction and label of which some classes may be absent."""
    classes = draw(st.integers(2, 6))
    used = draw(st.lists(st.integers(0, classes - 1), min_size=1, unique=True))
    seed, images = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 3))
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        shape = tuple(random.integers(1, 9, 2))
        label = random.choice([*used, IGNORE], shape).astype(np.uint8)
        pairs.append((random.choice(used, shape).astype(np.uint8), label))
    return classes, pairs


@settings(max_examples=60, deadline=None)
@given(maps())
def test_everything_is_as_scikit_learn_gives_it(case):
    classes, pairs = case
    total = sum(confusion_matrix(prediction, label, classes) for prediction, label in pairs)
    predictions, labels = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    valid = labels != IGNORE
    predictions, labels = predictions[valid], labels[valid]
    assert total.dtype == np.int64
    if not len(labels):
        assert not total.any()
        return
    every = range(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that are absent
        np.testing.assert_array_equal(total, sklearn_confusion(labels, predictions, labels=list(every)))
        expected = jaccard_score(labels, predictions, labels=list(every), average=None, zero_division=0)
    present = np.isin(every, np.union1d(labels, predictions))
    np.testing.assert_allclose(class_ious(total), np.where(present, expected, np.nan))

    names = [f"class{index}" for index in every]
    found = scores(total, names, {"all": names, "first": names[:1]})
    assert found["undefined"] == [name for name, there in zip(names, present, strict=True) if not there]
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["sets"]["all"] == pytest.approx(np.mean(expected[present]))
    assert found["sets"]["first"] == (pytest.approx(expected[0]) if present[0] else None)
    assert [value is None for value in found["iou"].values()] == (~present).tolist()


def test_by_hand():
    label = np.array([[0, 0, 1], [1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 0, 2]], dtype=np.uint8)
    total = confusion_matrix(prediction, label, 4)
    assert total.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    found = scores(total, ["a", "b", "c", "d"], {"mIoU4": ["a", "b", "c", "d"], "mIoU2": ["a", "b"], "none": ["d"]})
    assert found["confusion"] == total.tolist()
    assert found["iou"] == {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3), "c": 0.0, "d": None}
    assert found["undefined"] == ["d"]
    # The mean over the set's classes of the IoU from the full matrix: what is taken for c still counts against a.
    assert found["sets"] == {"mIoU4": pytest.approx(1 / 3), "mIoU2": pytest.approx(1 / 2), "none": None}
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_is_defined_and_wrong():
    found = scores(confusion_matrix(np.array([[1]]), np.array([[0]]), 2), ["a", "b"], {"all": ["a", "b"]})
    assert found["iou"] == {"a": 0.0, "b": 0.0} and found["undefined"] == []


def test_without_a_labelled_pixel_nothing_is_defined():
    nothing = np.full((2, 2), IGNORE, dtype=np.uint8)
    found = scores(confusion_matrix(np.zeros((2, 2), np.uint8), nothing, 2), ["a", "b"], {"all": ["a", "b"]})
    assert found["sets"] == {"all": None} and found["pixel_accuracy"] is None and found["undefined"] == ["a", "b"]


def test_counts_do_not_overflow_eight_bits():
    label = np.full((40, 40), 200, dtype=np.uint8)
    assert confusion_matrix(label, label, 201)[200, 200] == 1600
