"""Counts of each image: against loops over pixels, their sum against the confusion matrix, and the file they are in."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.engine.metrics import class_ious, confusion_matrix
from udaseg.errors import UserError
from udaseg.runs.counts import FILE, image_counts, read_counts, write_counts
from udaseg.types import IGNORE


def scored(seed, images=4, classes=5, shape=(6, 9)):
    """Confusion matrices (N, C, C) of invented predictions, of which some pixels have no label."""
    random = np.random.default_rng(seed)
    labels = random.choice([*range(classes - 1), IGNORE], (images, *shape)).astype(np.uint8)
    found = random.integers(0, classes - 1, (images, *shape)).astype(np.uint8)  # the last class is nowhere
    return found, labels, np.array([confusion_matrix(*pair, classes) for pair in zip(found, labels, strict=True)])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_as_counted_pixel_by_pixel(seed):
    predictions, labels, confusions = scored(seed, images=1)
    expected = np.zeros((5, 3), dtype=np.int64)
    for found, truth in zip(predictions[0].ravel().tolist(), labels[0].ravel().tolist(), strict=True):
        if truth != IGNORE:
            expected[found, 0] += found == truth
            expected[truth, 1] += 1
            expected[found, 2] += 1
    counts = image_counts(confusions[0])
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)


def test_their_sum_has_the_data_sets_iou():
    _, _, confusions = scored(0)
    hits, truth, predicted = sum(image_counts(confusion) for confusion in confusions).T
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(hits / (truth + predicted - hits), class_ious(confusions.sum(0)))


def test_an_image_without_labels_counts_nothing():
    blank = np.full((3, 3), IGNORE, dtype=np.uint8)
    assert not image_counts(confusion_matrix(np.zeros((3, 3), np.uint8), blank, 5)).any()


class TestFile:
    @pytest.fixture
    def counts(self):
        return np.array([image_counts(confusion) for confusion in scored(1)[2]])

    @pytest.fixture
    def confusion(self):
        return scored(1)[2].sum(0)

    def test_what_is_written_is_read(self, counts, confusion, tmp_path):
        write_counts(tmp_path / FILE, counts)
        found = read_counts(tmp_path / FILE, confusion)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, counts)

    def test_equal_counts_give_equal_bytes_at_any_time(self, counts, tmp_path, monkeypatch):
        write_counts(tmp_path / "first", counts)
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
        write_counts(tmp_path / "second", counts)
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()

    def test_a_few_kilobytes(self, tmp_path):
        random = np.random.default_rng(0)
        counts = np.exp(random.uniform(0, 10, (100, 16, 3))) * (random.random((100, 16, 3)) < 0.7)
        write_counts(tmp_path / FILE, counts.astype(np.int64))
        assert (tmp_path / FILE).stat().st_size < 12_000

    @pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"some text"])
    def test_missing_or_damaged_is_refused(self, content, confusion, tmp_path):
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"counts\.npz: cannot be read as counts of images .*evaluate the run"):
            read_counts(tmp_path / FILE, confusion)

    def test_an_archive_of_something_else_is_refused(self, confusion, tmp_path):
        np.savez(tmp_path / FILE, other=np.zeros(3))
        np.save(tmp_path / "plain.npy", np.zeros(3))
        for name in (FILE, "plain.npy"):
            with pytest.raises(UserError, match="cannot be read as counts of images"):
                read_counts(tmp_path / name, confusion)

    def test_a_flipped_bit_is_refused(self, counts, confusion, tmp_path):
        write_counts(tmp_path / FILE, counts)
        content = bytearray((tmp_path / FILE).read_bytes())
        content[len(content) // 2] ^= 255
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as counts of images"):
            read_counts(tmp_path / FILE, confusion)

    def test_counts_of_another_evaluation_are_refused(self, counts, confusion, tmp_path):
        write_counts(tmp_path / FILE, counts)
        other = confusion.copy()
        other[0, 1] += 1
        for wrong in (other, confusion[:-1, :-1]):
            with pytest.raises(UserError, match=r"do not sum to the confusion matrix in metrics\.json"):
                read_counts(tmp_path / FILE, wrong)
