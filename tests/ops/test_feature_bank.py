import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.feature_bank import bank_contrast, quota, update_bank

CLASSES, SIZE, WIDTH = 3, 5, 4


def classes(count, seed=0, highest=CLASSES):
    """Labels of `count` rows, some of which are 255."""
    drawn = torch.randint(highest + 1, (count,), generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(drawn == highest, 255)


class TestQuota:
    @pytest.mark.parametrize(
        ("size", "images", "classes", "expected"),
        [(256, 100, None, 3), (256, 372, None, 1), (256, 2975, None, 1), (256, 212, 21, 7), (256, 1323, 21, 1)],
    )
    def test_is_that_of_the_release(self, size, images, classes, expected):
        assert quota(size, images, classes) == expected


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def empty(dtype=torch.float64):
    return torch.zeros(CLASSES, SIZE, WIDTH, dtype=dtype), torch.zeros(CLASSES, dtype=torch.int64)


def first_channel(rows, index):
    return rows[:, 0] + index


def filled(counts, seed=1):
    bank = random(CLASSES, SIZE, WIDTH, seed=seed)
    counts = torch.tensor(counts)
    return bank * (torch.arange(SIZE)[:, None] < counts[:, None, None]), counts


def naive_update(bank, counts, rows, labels, most, highest):
    """Lists of each class's vectors, newest first."""
    found = []
    for index in range(CLASSES):
        new = [row for row, label in zip(rows.tolist(), labels.tolist(), strict=True) if label == index]
        if len(new) > most:
            new = sorted(new, key=lambda row: row[0], reverse=highest)[:most]
        found.append((new + bank[index, : int(counts[index])].tolist())[:SIZE])
    return found


class TestUpdate:
    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.integers(0, 20), min_size=1, max_size=4),
        st.integers(1, SIZE + 2),
        st.booleans(),
        st.integers(0, 9),
    )
    def test_is_a_queue_of_the_best_of_each_step(self, lengths, most, highest, seed):
        bank, counts = empty()
        for step, length in enumerate(lengths):
            rows, labels = random(length, WIDTH, seed=seed + step), classes(length, seed + step)
            expected = naive_update(bank, counts, rows, labels, most, highest)
            before = bank.clone(), counts.clone()
            keep = "highest" if highest else "lowest"
            moved, moved_counts = update_bank(bank, counts, rows, labels, most, first_channel, keep)
            assert torch.equal(bank, before[0])
            assert torch.equal(counts, before[1])
            bank, counts = moved, moved_counts
            assert counts.tolist() == [len(vectors) for vectors in expected]
            for index, vectors in enumerate(expected):
                assert bank[index, : len(vectors)].tolist() == vectors
                assert not bank[index, len(vectors) :].any()
                assert len({tuple(vector) for vector in vectors}) == len(vectors)

    def test_with_few_rows_none_is_ranked_out_and_their_order_stays(self):
        rows = random(3, WIDTH)
        bank, counts = update_bank(*empty(), rows, torch.tensor([1, 1, 1]), 3, first_channel, "highest")
        assert counts.tolist() == [0, 3, 0]
        assert torch.equal(bank[1, :3], rows)

    @pytest.mark.parametrize("keep", ["highest", "lowest"])
    def test_of_equal_scores_the_first_rows_are_kept(self, keep):
        rows = torch.arange(20.0).view(5, WIDTH)
        scores = lambda rows, index: torch.full((len(rows),), 100.0)  # noqa: E731
        bank, _ = update_bank(*empty(torch.float32), rows, torch.zeros(5).long(), 2, scores, keep)
        assert torch.equal(bank[0, :2], rows[:2])

    def test_nothing_new_changes_nothing(self):
        bank, counts = filled([2, 0, 5])
        for labels in (torch.zeros(0).long(), torch.tensor([255, 250])):
            moved = update_bank(bank, counts, random(len(labels), WIDTH), labels, 2, first_channel, "highest")
            assert torch.equal(moved[0], bank)
            assert torch.equal(moved[1], counts)

    def test_the_bank_keeps_its_type_and_has_no_graph(self):
        bank, counts = empty(torch.float32)
        rows = random(6, WIDTH).bfloat16().requires_grad_()
        bank, counts = update_bank(bank, counts, rows, torch.zeros(6).long(), 2, first_channel, "highest")
        assert bank.dtype == torch.float32
        assert not bank.requires_grad

    @pytest.mark.parametrize(
        ("rows", "labels", "bank", "counts"),
        [
            ((2, 4), (3,), (3, 5, 4), (3,)),
            ((2, 4, 1), (2,), (3, 5, 4), (3,)),
            ((2, 4), (2,), (3, 5, 3), (3,)),
            ((2, 4), (2,), (3, 5, 4), (2,)),
        ],
    )
    def test_other_shapes_are_refused(self, rows, labels, bank, counts):
        arguments = (torch.zeros(bank), torch.zeros(counts).long(), torch.zeros(rows), torch.zeros(labels).long())
        with pytest.raises(ValueError, match="expected"):
            update_bank(*arguments, 2, first_channel, "highest")


def naive_contrast(rows, labels, bank, counts, scores, bank_scores):
    total = 0.0
    for index in range(CLASSES):
        own = [row for row, label in zip(rows, labels.tolist(), strict=True) if label == index]
        memory = [vector / vector.norm() for vector in bank[index, : int(counts[index])]]
        if len(own) < 2 or len(memory) < 2:
            continue
        sides = []
        for vectors, rule in ((own, scores), (memory, bank_scores)):
            parts = [1 / (1 + math.exp(-float(rule(v[None], index)))) if rule else 1.0 for v in vectors]
            sides.append([len(parts) * part / sum(parts) for part in parts])
        pairs = [
            (1 - float(p @ z / p.norm())) * of_own * of_memory
            for p, of_own in zip(own, sides[0], strict=True)
            for z, of_memory in zip(memory, sides[1], strict=True)
        ]
        total += sum(pairs) / len(pairs)
    return total / CLASSES


class TestContrast:
    @pytest.mark.parametrize("scores", [None, first_channel])
    @pytest.mark.parametrize("bank_scores", [None, lambda rows, index: 2 * rows[:, 1] - index])
    @pytest.mark.parametrize("counts", [[5, 3, 2], [5, 1, 0], [0, 0, 0]])
    def test_values_are_those_of_a_naive_loop(self, scores, bank_scores, counts):
        rows, labels = random(20, WIDTH), classes(20)
        bank, counts = filled(counts)
        found = bank_contrast(rows, labels, bank, counts, scores, bank_scores)
        expected = naive_contrast(rows, labels, bank, counts, scores, bank_scores)
        assert float(found) == pytest.approx(expected, abs=1e-7)

    @pytest.mark.parametrize("bank_scores", [None, first_channel])
    def test_gradient(self, bank_scores):
        bank, counts = filled([5, 2, 1])
        labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 255])
        # Scores see rows without their gradient, so that these must not depend on them here.
        weights = random(WIDTH).requires_grad_()
        fixed = random(8, seed=2)
        assert gradcheck(
            lambda rows: bank_contrast(rows, labels, bank, counts, lambda own, index: fixed[: len(own)], bank_scores),
            random(8, WIDTH).requires_grad_(),
        )
        assert gradcheck(
            lambda w: bank_contrast(random(8, WIDTH), labels, bank, counts, lambda own, index: own @ w, bank_scores),
            weights,
        )

    def test_scores_see_rows_without_their_gradient_and_the_bank_has_none(self):
        bank, counts = filled([5, 5, 5])
        seen = []

        def scores(rows, index):
            seen.append(rows)
            return rows[:, 0]

        rows = random(9, WIDTH).requires_grad_()
        bank_contrast(rows, torch.arange(9) % 3, bank, counts, scores, scores).backward()
        assert seen
        assert not any(part.requires_grad for part in seen)
        assert rows.grad.any()

    def test_rows_that_equal_the_bank_are_at_no_distance_and_opposite_ones_at_two(self):
        bank = torch.ones(CLASSES, SIZE, WIDTH)
        counts = torch.full((CLASSES,), SIZE)
        rows, labels = torch.ones(6, WIDTH), torch.arange(6) % 3
        assert float(bank_contrast(3 * rows, labels, bank, counts)) == pytest.approx(0, abs=1e-6)
        assert float(bank_contrast(-rows, labels, bank, counts)) == pytest.approx(2)

    def test_a_step_lowers_it(self):
        bank, counts = filled([5, 5, 5])
        rows, labels = random(9, WIDTH).requires_grad_(), torch.arange(9) % 3
        loss = bank_contrast(rows, labels, bank, counts, first_channel)
        loss.backward()
        moved = rows.detach() - 0.1 * rows.grad
        assert bank_contrast(moved, labels, bank, counts, first_channel) < loss

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 99), st.lists(st.integers(0, SIZE), min_size=CLASSES, max_size=CLASSES))
    def test_unweighted_it_is_between_zero_and_two_and_rows_order_is_nothing_to_it(self, seed, counts):
        rows, labels = random(12, WIDTH, seed=seed), classes(12, seed)
        bank, counts = filled(counts, seed)
        found = bank_contrast(rows, labels, bank, counts)
        assert 0 <= float(found) <= 2
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bank_contrast(rows[order], labels[order], bank, counts), found)

    @pytest.mark.parametrize(
        ("labels", "counts"),
        [([0, 0, 1], [0, 5, 5]), ([0, 0, 1], [1, 5, 5]), ([0, 1, 2], [5, 5, 5]), ([255, 250, 255], [5, 5, 5])],
    )
    def test_with_no_class_to_compare_it_is_zero_and_connected(self, labels, counts):
        rows = random(3, WIDTH).requires_grad_()
        loss = bank_contrast(rows, torch.tensor(labels), *filled(counts), first_channel, first_channel)
        loss.backward()
        assert loss == 0
        assert torch.equal(rows.grad, torch.zeros_like(rows))

    def test_without_rows_it_is_zero(self):
        rows = torch.zeros(0, WIDTH, requires_grad=True)
        loss = bank_contrast(rows, torch.zeros(0).long(), *filled([5, 5, 5]))
        loss.backward()
        assert loss == 0

    def test_scores_that_underflow_weigh_nothing_and_give_no_nan(self):
        rows = random(4, WIDTH).float().requires_grad_()
        bank, counts = filled([5, 5, 5])
        low = lambda own, index: torch.full((len(own),), -200.0)  # noqa: E731
        loss = bank_contrast(rows, torch.zeros(4).long(), bank.float(), counts, low, low)
        loss.backward()
        assert loss == 0
        assert rows.grad.isfinite().all()

    def test_a_row_of_zeros_gives_no_nan(self):
        rows = torch.zeros(4, WIDTH, requires_grad=True)
        loss = bank_contrast(rows, torch.zeros(4).long(), *filled([5, 5, 5]))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(1 / CLASSES)
        assert rows.grad.isfinite().all()

    def test_half_precision_is_computed_in_float32(self):
        rows, labels = random(20, WIDTH).bfloat16(), classes(20)
        bank, counts = filled([5, 5, 5])
        found = bank_contrast(rows, labels, bank.float(), counts)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, bank_contrast(rows.float(), labels, bank.float(), counts))

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match="expected"):
            bank_contrast(random(3, WIDTH), torch.zeros(2).long(), *filled([5, 5, 5]))
        with pytest.raises(ValueError, match="integer labels"):
            bank_contrast(random(3, WIDTH), torch.zeros(3), *filled([5, 5, 5]))
