import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.patch_contrast import Bank, bank_contrast, empty_bank, hardest, paired_contrast, pushed


def rows_of(count, width=4, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def classes_of(count, classes=3, seed=0):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def naive_paired(rows, first, second, temperature, share, classes=None):
    total = 0.0
    for anchors, positives in ((first, second), (second, first)):
        losses = []
        for anchor, positive in zip(anchors.tolist(), positives.tolist(), strict=True):

            def score(other, anchor=anchor):
                return float(rows[anchor] @ rows[other]) / temperature

            others = [
                score(other)
                for other in range(len(rows))
                if other not in (anchor, positive) and (classes is None or classes[other] != classes[anchor])
            ]
            kept = sorted(others, reverse=True)[: max(round(share * len(others)), 1)]
            towards = math.exp(score(positive))
            losses.append(-math.log(towards / (towards + sum(map(math.exp, kept)))))
        total += sum(losses) / len(losses)
    return total


class TestPairedContrast:
    first, second = torch.tensor([0, 2, 5]), torch.tensor([7, 8, 11])

    def loss(self, rows, temperature=0.5, share=1.0, classes=None):
        return paired_contrast(rows, self.first, self.second, temperature, share, classes)

    @pytest.mark.parametrize("share", [0.1, 0.26, 0.5, 1.0])
    @pytest.mark.parametrize("classes", [None, classes_of(12)])
    def test_values_are_those_of_a_naive_loop(self, share, classes):
        rows = rows_of(12)
        loss = self.loss(rows, 0.2, share, classes)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(naive_paired(rows, self.first, self.second, 0.2, share, classes))

    @pytest.mark.parametrize("classes", [None, classes_of(12)])
    def test_gradient(self, classes):
        assert gradcheck(lambda rows: self.loss(rows, share=0.3, classes=classes), rows_of(12).requires_grad_())

    def test_with_all_negatives_it_is_the_cross_entropy_of_finding_the_positive(self):
        rows = rows_of(12)
        scores = (rows @ rows.T / 0.5).fill_diagonal_(-torch.inf)
        expected = F.cross_entropy(scores[self.first], self.second) + F.cross_entropy(scores[self.second], self.first)
        torch.testing.assert_close(self.loss(rows), expected)

    def test_anchors_positives_and_negatives_get_a_gradient_and_left_out_negatives_none(self):
        rows = rows_of(12).requires_grad_()
        self.loss(rows, share=0.1).backward()
        touched = set(rows.grad.any(dim=1).nonzero().flatten().tolist())
        assert touched >= {0, 2, 5, 7, 8, 11}
        assert len(touched) < 12

    def test_agreeing_places_that_differ_from_all_else_cost_nothing(self):
        rows = torch.eye(3).repeat(2, 1)
        places = torch.arange(3)
        assert float(paired_contrast(rows, places, places + 3, 0.05, 1.0)) < 1e-6
        assert float(paired_contrast(rows, places, (places + 1) % 3 + 3, 0.05, 1.0)) > 30

    @settings(deadline=None)
    @given(st.integers(0, 1000), st.floats(0.05, 1.0))
    def test_more_negatives_cost_more(self, seed, share):
        rows = rows_of(12, seed=seed)
        assert 0 <= self.loss(rows, share=share) <= self.loss(rows)

    @settings(deadline=None)
    @given(st.integers(0, 1000))
    def test_the_order_of_rows_and_of_crops_does_not_matter(self, seed):
        rows = rows_of(12, seed=seed)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        places = order.argsort()
        shuffled = paired_contrast(rows[order], places[self.second], places[self.first], 0.5, 0.3)
        torch.testing.assert_close(shuffled, self.loss(rows, share=0.3))

    def test_without_pairs_it_is_zero_and_connected(self):
        rows = rows_of(4).requires_grad_()
        nothing = torch.empty(0, dtype=torch.int64)
        loss = paired_contrast(rows, nothing, nothing, 0.1, 0.1)
        loss.backward()
        assert loss == 0 and not rows.grad.any()

    @pytest.mark.parametrize(
        ("count", "classes"), [(2, None), (8, torch.zeros(8, dtype=torch.int64))], ids=["one pair", "one class"]
    )
    def test_without_negatives_it_is_zero_with_a_finite_gradient(self, count, classes):
        rows = rows_of(count).requires_grad_()
        loss = paired_contrast(rows, torch.tensor([0]), torch.tensor([1]), 0.1, 0.1, classes)
        loss.backward()
        assert loss == 0 and not rows.grad.any()

    def test_identical_rows_are_no_trouble(self):
        rows = torch.ones(12, 4).div(2).requires_grad_()
        loss = self.loss(rows, temperature=0.1, share=0.1)
        loss.backward()
        assert loss.item() == pytest.approx(2 * math.log(11))  # all tie with the hardest
        assert rows.grad.isfinite().all()

    def test_autocast_costs_no_digits(self):
        rows = rows_of(12, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(rows)
        assert torch.equal(loss, self.loss(rows))
        assert self.loss(rows.bfloat16()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("rows", "first", "second", "classes"),
        [((4, 3, 2), 1, 1, None), ((4, 3), 2, 1, None), ((4, 3), 1, 1, 3)],
    )
    def test_other_shapes_are_refused(self, rows, first, second, classes):
        labels = None if classes is None else torch.zeros(classes, dtype=torch.int64)
        with pytest.raises(ValueError, match="expected"):
            paired_contrast(torch.zeros(rows), torch.arange(first), torch.arange(second), 0.1, 0.1, labels)


class TestHardest:
    @settings(deadline=None)
    @given(st.integers(0, 1000), st.floats(0.01, 1.0))
    def test_are_the_share_with_the_largest_similarity(self, seed, share):
        generator = torch.Generator().manual_seed(seed)
        similarity, negative = torch.rand(5, 20, generator=generator), torch.rand(5, 20, generator=generator) < 0.7
        found = hardest(similarity, negative, share)
        for row in range(5):
            among = similarity[row][negative[row]].sort(descending=True).values
            expected = among[: max(round(share * len(among)), 1)]
            assert torch.equal(similarity[row][found[row]].sort(descending=True).values, expected)
        assert not (found & ~negative).any()

    def test_those_that_tie_with_the_last_are_there_too(self):
        similarity = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1]])
        found = hardest(similarity, torch.ones(1, 5, dtype=torch.bool), 0.4)
        assert found.tolist() == [[True, True, True, True, False]]

    def test_none_of_none(self):
        assert not hardest(torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.bool), 0.5).any()


IGNORE = 255


def naive_bank(rows, first, second, labels, confidence, bank, temperature, threshold):
    parts, counted = [], []
    remembered = [pair for step in zip(*bank, strict=True) for pair in zip(*step, strict=True)]
    remembered = [(row, int(label)) for row, label in remembered if label != IGNORE]
    for anchors, positives in ((first, second), (second, first)):
        losses = []
        for anchor, positive in zip(anchors.tolist(), positives.tolist(), strict=True):
            if not (confidence[positive] > threshold and confidence[anchor] < confidence[positive]):
                continue
            towards = math.exp(float(rows[anchor] @ rows[positive]) / temperature)
            against = sum(
                math.exp(float(rows[anchor] @ row) / temperature)
                for row, label in remembered
                if label != labels[anchor]
            )
            losses.append(-math.log(towards / (towards + against)))
        parts.append(sum(losses) / max(len(losses), 1))
        counted.append(len(losses))
    return parts, counted


class TestBankContrast:
    first, second = torch.tensor([0, 1, 3]), torch.tensor([4, 6, 7])

    def inputs(self, seed=0, dtype=torch.float64, classes=3):
        generator = torch.Generator().manual_seed(seed)
        bank = Bank(rows_of(10, seed=seed + 1, dtype=dtype).view(2, 5, 4), classes_of(10, classes, seed).view(2, 5))
        bank.labels[0, 3] = IGNORE
        return (
            rows_of(8, seed=seed, dtype=dtype),
            classes_of(8, classes, seed + 1),
            torch.rand(8, generator=generator),
            bank,
        )

    def contrast(self, rows, labels, confidence, bank, threshold=0.2):
        return bank_contrast(rows, self.first, self.second, labels, confidence, bank, 0.5, threshold)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("threshold", [0.0, 0.5])
    def test_values_are_those_of_a_naive_loop(self, seed, threshold):
        given = self.inputs(seed)
        found = self.contrast(*given, threshold)
        parts, counted = naive_bank(given[0], self.first, self.second, *given[1:], 0.5, threshold)
        assert found.loss.shape == () and found.parts.shape == found.counted.shape == (2,)
        assert found.parts.tolist() == pytest.approx(parts, rel=1e-4)  # but for the release's 1e-8
        assert found.counted.tolist() == counted
        assert float(found.loss) == pytest.approx(sum(parts), rel=1e-4)

    def test_gradient(self):
        rows, labels, _, bank = self.inputs()

        def of_anchors(anchors):  # elsewhere rows are positives, too, which are taken as constants
            surer = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9])
            return self.contrast(torch.cat([anchors, rows[4:]]), labels, surer, bank).loss

        assert gradcheck(of_anchors, rows[:4].clone().requires_grad_())

    def test_only_the_less_sure_side_gets_a_gradient(self):
        rows, labels, _, bank = self.inputs()
        rows.requires_grad_()
        bank.rows.requires_grad_()
        confidence = torch.tensor([0.5, 0.99, 0.0, 0.5, 0.95, 0.0, 0.5, 0.5])
        found = self.contrast(rows, labels, confidence, bank, 0.9)
        found.loss.backward()
        assert found.counted.tolist() == [1, 1]  # 0 learns from 4, and 6 from 1
        assert rows.grad.any(dim=1).nonzero().flatten().tolist() == [0, 6]

    def test_nothing_confident_is_zero_and_connected(self):
        rows, labels, confidence, bank = self.inputs()
        rows.requires_grad_()
        found = self.contrast(rows, labels, confidence, bank, 2.0)
        found.loss.backward()
        assert found.loss == 0 and found.counted.tolist() == [0, 0]
        assert not rows.grad.any()

    def test_no_overlap_is_zero(self):
        rows, labels, confidence, bank = self.inputs()
        nothing = torch.empty(0, dtype=torch.int64)
        found = bank_contrast(rows.requires_grad_(), nothing, nothing, labels, confidence, bank, 0.1, 0.9)
        found.loss.backward()
        assert found.loss == 0 and not rows.grad.any()

    def test_one_pseudo_class_has_no_negatives(self):
        rows, labels, confidence, bank = self.inputs(classes=1)
        assert float(self.contrast(rows, labels, confidence, bank).loss) == pytest.approx(0, abs=1e-3)

    def test_an_empty_bank_has_no_negatives(self):
        rows, labels, confidence, _ = self.inputs()
        rows.requires_grad_()
        loss = self.contrast(rows, labels, confidence, empty_bank(3, 5, 4)).loss
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert rows.grad.isfinite().all()

    @settings(deadline=None)
    @given(st.integers(0, 1000))
    def test_the_crops_roles_can_be_swapped(self, seed):
        rows, labels, confidence, bank = self.inputs(seed)
        found = self.contrast(rows, labels, confidence, bank)
        swapped = bank_contrast(rows, self.second, self.first, labels, confidence, bank, 0.5, 0.2)
        torch.testing.assert_close(found.parts, swapped.parts.flip(0))
        assert found.loss >= -1e-7

    def test_other_shapes_are_refused(self):
        rows, labels, confidence, bank = self.inputs()
        with pytest.raises(ValueError, match="confidence"):
            self.contrast(rows, labels, confidence[:3], bank)
        with pytest.raises(ValueError, match="labels"):
            self.contrast(rows, labels[:3], confidence, bank)
        with pytest.raises(ValueError, match="rows"):
            self.contrast(rows[None], labels, confidence, bank)


class TestBank:
    def test_keeps_the_last_steps_with_the_newest_last(self):
        bank = empty_bank(3, 4, 2)
        assert (bank.labels == IGNORE).all()
        for step in range(5):
            bank = pushed(bank, torch.full((2, 2), float(step)), torch.full((2,), step))
        assert bank.rows[:, 0, 0].tolist() == [2, 3, 4]
        assert bank.labels.tolist() == [[step, step, IGNORE, IGNORE] for step in (2, 3, 4)]
        assert bank.rows.shape == (3, 4, 2) and not bank.rows[:, 2:].any()

    def test_needs_no_graph_and_leaves_the_old_one_as_it_is(self):
        before = empty_bank(2, 3, 2)
        after = pushed(before, torch.ones(3, 2, requires_grad=True), torch.zeros(3, dtype=torch.int64))
        assert not after.rows.requires_grad and after.rows[1].all()
        assert not before.rows.any() and (before.labels == IGNORE).all()

    @pytest.mark.parametrize(("rows", "labels"), [((5, 2), 5), ((3, 3), 3), ((3, 2), 2), ((3,), 3)])
    def test_other_shapes_are_refused(self, rows, labels):
        with pytest.raises(ValueError, match="at most 4 rows of 2"):
            pushed(empty_bank(3, 4, 2), torch.zeros(rows), torch.zeros(labels, dtype=torch.int64))
