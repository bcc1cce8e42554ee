import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.consistency import (
    distillation_kl,
    rectified_labels,
    regulariser,
    reverse_cross_entropy,
    structure_kl,
    symmetric_cross_entropy,
)
from udaseg.ops.losses import cross_entropy


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def example(batch=2, classes=4, height=3, width=2, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    return logits, labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, 255)


def pixels(maps):
    """Lists of the channels of each pixel of (B, C, h, w)."""
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def softmax(logits):
    exponentials = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


class TestRectifiedLabels:
    @pytest.mark.parametrize("threshold", [0.0, 0.5])
    def test_values_are_those_of_a_naive_loop(self, threshold):
        soft, weights = random(2, 3, 3, 4).softmax(1), random(2, 3, 3, 4, seed=1).softmax(1)
        found = rectified_labels(soft, weights, threshold)
        assert found.labels.shape == found.confidence.shape == (2, 3, 4)
        assert found.labels.dtype == torch.int64
        several = zip(
            pixels(soft),
            pixels(weights),
            found.labels.flatten().tolist(),
            found.confidence.flatten().tolist(),
            strict=True,
        )
        for probs, nearness, label, confidence in several:
            product = [prob * weight for prob, weight in zip(probs, nearness, strict=True)]
            assert confidence == pytest.approx(max(product) / sum(product))
            assert label == (product.index(max(product)) if confidence >= threshold else 255)

    def test_without_weights_the_soft_labels_decide(self):
        soft = random(2, 3, 3, 4).softmax(1)
        found = rectified_labels(soft)
        assert torch.equal(found.labels, soft.argmax(1))
        torch.testing.assert_close(found.confidence, soft.amax(1))

    def test_uniform_weights_change_nothing(self):
        soft = random(2, 4, 3, 4).softmax(1)
        assert torch.equal(rectified_labels(soft, torch.full_like(soft, 0.25)).labels, rectified_labels(soft).labels)

    @pytest.mark.parametrize("threshold", [0.0, 0.9])
    def test_where_nothing_is_left_the_pixel_is_ignored(self, threshold):
        soft = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 2, 1, 3)  # none, first, second
        weights = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        found = rectified_labels(soft, weights, threshold)
        assert found.labels.flatten().tolist() == [255, 255, 1]
        assert found.confidence.flatten().tolist() == [0, 0, 1]

    def test_a_threshold_above_one_ignores_all(self):
        assert (rectified_labels(random(1, 3, 2, 2).softmax(1), None, 1.01).labels == 255).all()

    @pytest.mark.parametrize("weights", [(2, 3, 4, 3), (1, 3, 3, 4)])
    def test_other_shapes_are_refused(self, weights):
        with pytest.raises(ValueError, match="expected"):
            rectified_labels(torch.ones(2, 3, 3, 4), torch.ones(weights))


class TestReverseCrossEntropy:
    @given(st.integers(1, 3), st.integers(2, 5), st.sampled_from([0.0, 0.5]))
    def test_value_is_that_of_a_naive_loop(self, batch, classes, ignored):
        logits, labels = example(batch, classes, ignored=ignored)
        losses = []
        for scores, label in zip(pixels(logits), labels.flatten().tolist(), strict=True):
            if label != 255:
                onehot = [1.0 if index == label else 1e-4 for index in range(classes)]
                parts = zip(softmax(scores), onehot, strict=True)
                losses.append(-sum(max(prob, 1e-7) * math.log(hot) for prob, hot in parts))
        expected = sum(losses) / len(losses) if losses else 0.0
        assert float(reverse_cross_entropy(logits, labels)) == pytest.approx(expected, abs=1e-12)

    def test_is_bounded_where_the_label_is_wrong(self):
        logits = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1)
        wrong, right = torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64)
        assert float(reverse_cross_entropy(logits, wrong)) == pytest.approx(-math.log(1e-4))
        assert float(reverse_cross_entropy(logits, right)) == pytest.approx(0, abs=1e-5)

    def test_gradient(self):
        logits, labels = example()
        assert gradcheck(lambda x: reverse_cross_entropy(x, labels), logits.requires_grad_())

    @pytest.mark.parametrize("shape", [(2, 3, 3), (1, 3, 2)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match="expected"):
            reverse_cross_entropy(random(2, 4, 3, 2), torch.zeros(shape, dtype=torch.int64))


class TestSymmetricCrossEntropy:
    def test_is_the_weighted_sum_of_both(self):
        logits, labels = example()
        expected = 0.3 * cross_entropy(logits, labels) + 2 * reverse_cross_entropy(logits, labels)
        torch.testing.assert_close(symmetric_cross_entropy(logits, labels, 0.3, 2.0), expected)

    def test_all_ignored_is_zero_and_has_a_zero_gradient(self):
        logits, labels = example(ignored=1.1)
        loss = symmetric_cross_entropy(logits.requires_grad_(), labels, 0.1, 1.0)
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_gradient(self):
        logits, labels = example()
        assert gradcheck(lambda x: symmetric_cross_entropy(x, labels, 0.1, 1.0), logits.requires_grad_())


class TestRegulariser:
    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_value_is_that_of_a_naive_loop(self, kind, masked):
        logits = random(2, 4, 3, 2)
        mask = random(2, 3, 2, seed=1) > 0 if masked else torch.ones(2, 3, 2, dtype=torch.bool)
        losses = []
        for scores, counts in zip(pixels(logits), mask.flatten().tolist(), strict=True):
            probs = softmax(scores)
            if counts:
                mrkld = -sum(math.log(prob) for prob in probs) / len(probs)
                losses.append(mrkld if kind == "mrkld" else sum(prob * math.log(prob) for prob in probs))
        loss = regulariser(logits, mask if masked else None, kind)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(sum(losses) / len(losses))

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_uniform_predictions_are_the_best(self, kind):
        uniform, other = torch.zeros(1, 4, 2, 2), random(1, 4, 2, 2)
        assert regulariser(uniform, kind=kind) < regulariser(other, kind=kind)

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_gradient(self, kind):
        mask = random(1, 2, 2, seed=1) > 0
        assert gradcheck(lambda x: regulariser(x, mask, kind), random(1, 3, 2, 2).requires_grad_())

    @pytest.mark.parametrize("kind", ["mrkld", "mrent"])
    def test_stays_finite_where_the_network_is_certain(self, kind):
        logits = torch.tensor([1e4, 0.0, -1e4]).view(1, 3, 1, 1).requires_grad_()
        loss = regulariser(logits, kind=kind)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_an_empty_mask_gives_zero_with_a_zero_gradient(self):
        logits = random(1, 3, 2, 2).requires_grad_()
        loss = regulariser(logits, torch.zeros(1, 2, 2, dtype=torch.bool))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_another_kind_or_shape_is_refused(self):
        with pytest.raises(ValueError, match="entropy"):
            regulariser(random(1, 3, 2, 2), kind="entropy")
        with pytest.raises(ValueError, match="expected"):
            regulariser(random(1, 3, 2, 2), torch.ones(2, 2, dtype=torch.bool))


class TestStructureKl:
    def naive(self, student, teacher, mask):
        losses = []
        for scores, wanted, counts in zip(pixels(student), pixels(teacher), mask.flatten().tolist(), strict=True):
            if counts:
                pairs = zip(wanted, softmax(scores), strict=True)
                losses.append(sum(goal * math.log(goal / prob) for goal, prob in pairs if goal) / len(wanted))
        return sum(losses) / len(losses) if losses else 0.0

    def test_value_is_that_of_a_naive_loop_and_divided_by_the_classes(self):
        student, teacher, mask = random(2, 4, 3, 2), random(2, 4, 3, 2, seed=1).softmax(1), random(2, 3, 2, seed=2) > 0
        teacher[:, :, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()[:, None]
        assert float(structure_kl(student, teacher, mask)) == pytest.approx(self.naive(student, teacher, mask))

    def test_equal_assignments_do_not_diverge(self):
        student = random(2, 4, 3, 2)
        loss = structure_kl(student, student.softmax(1), torch.ones(2, 3, 2, dtype=torch.bool))
        assert float(loss) == pytest.approx(0, abs=1e-12)

    def test_gradient_is_the_students_alone(self):
        teacher, mask = random(1, 3, 2, 2, seed=1).softmax(1), random(1, 2, 2, seed=2) > -1
        assert gradcheck(lambda x: structure_kl(x, teacher, mask), random(1, 3, 2, 2).requires_grad_())
        teacher.requires_grad_()
        structure_kl(random(1, 3, 2, 2).requires_grad_(), teacher, mask).backward()
        assert teacher.grad is None

    def test_what_is_not_in_the_mask_does_not_matter(self):
        student, teacher, mask = random(2, 4, 3, 2), random(2, 4, 3, 2, seed=1).softmax(1), random(2, 3, 2, seed=2) > 0
        changed = teacher.masked_fill(~mask[:, None], 0.0)  # as a warp leaves it
        assert torch.equal(structure_kl(student, teacher, mask), structure_kl(student, changed, mask))

    def test_an_empty_mask_gives_zero_with_a_zero_gradient(self):
        student = random(1, 3, 2, 2).requires_grad_()
        loss = structure_kl(student, torch.zeros(1, 3, 2, 2).double(), torch.zeros(1, 2, 2, dtype=torch.bool))
        loss.backward()
        assert loss == 0
        assert torch.equal(student.grad, torch.zeros_like(student))

    @pytest.mark.parametrize(("teacher", "mask"), [((1, 4, 2, 2), (1, 2, 2)), ((1, 3, 2, 2), (1, 3, 2, 2))])
    def test_other_shapes_are_refused(self, teacher, mask):
        with pytest.raises(ValueError, match="expected"):
            structure_kl(random(1, 3, 2, 2), torch.ones(teacher), torch.ones(mask, dtype=torch.bool))


class TestDistillationKl:
    @pytest.mark.parametrize("kd", ["paper", "released"])
    def test_value_is_that_of_a_naive_loop(self, kd):
        student, teacher = random(2, 3, 2, 2), random(2, 3, 2, 2, seed=1)
        parts = []
        for scores, wanted in zip(pixels(student), pixels(teacher), strict=True):
            for prob, goal in zip(softmax(scores), softmax(wanted), strict=True):
                parts.append(goal * (math.log(goal) - (math.log(prob) if kd == "paper" else prob)))
        assert float(distillation_kl(student, teacher, kd)) == pytest.approx(sum(parts) / len(parts))

    @pytest.mark.parametrize("kd", ["paper", "released"])
    def test_gradient_is_the_students_alone(self, kd):
        teacher = random(1, 3, 2, 2, seed=1)
        assert gradcheck(lambda x: distillation_kl(x, teacher, kd), random(1, 3, 2, 2).requires_grad_())
        distillation_kl(random(1, 3, 2, 2).requires_grad_(), teacher.requires_grad_(), kd).backward()
        assert teacher.grad is None

    def test_equal_predictions_do_not_diverge(self):
        logits = random(2, 3, 2, 2)
        assert float(distillation_kl(logits, logits + 7, "paper")) == pytest.approx(0, abs=1e-12)

    def test_is_finite_where_the_student_is_certain_and_wrong(self):
        student = torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)
        assert float(distillation_kl(student, student.flip(1), "paper")) == pytest.approx(5e3)

    def test_another_kind_or_shape_is_refused(self):
        with pytest.raises(ValueError, match="intended"):
            distillation_kl(random(1, 3, 2, 2), random(1, 3, 2, 2), "intended")
        with pytest.raises(ValueError, match="expected"):
            distillation_kl(random(1, 3, 2, 2), random(1, 3, 2, 3), "paper")
