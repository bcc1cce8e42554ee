import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.consistency import (
    cross_view_distillation,
    distillation_kl,
    prototype_consistency,
    structure_kl,
    view_consistency,
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(maps):
    """Lists of the channels of each pixel of (B, C, h, w)."""
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1]).tolist()


def softmax(logits):
    exponentials = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


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


def logits(batch=2, classes=3, height=2, width=3, seed=0, dtype=torch.float64):
    maps = torch.randn(2 * batch, classes, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 2 * maps


@settings(deadline=None)
@given(st.integers(1, 2), st.floats(0, 2), st.integers(0, 9))
def test_value_is_that_of_a_naive_loop(batch, damping, seed):
    student, teacher = logits(batch, seed=seed), logits(batch, seed=seed + 100)
    expected = 0.0
    for view, row, column in torch.cartesian_prod(*map(torch.arange, (2 * batch, 2, 3))).tolist():
        own = student[view, :, row, column].tolist()
        other = teacher[(view + batch) % (2 * batch), :, row, column].tolist()
        normaliser = sum(map(math.exp, other))
        log_normaliser = math.log(sum(map(math.exp, own)))
        loss = -sum(math.exp(o) / normaliser * (s - log_normaliser) for o, s in zip(other, own, strict=True))
        # Views of the first half are the clean ones, which learn from the mixed ones.
        expected += (damping if view < batch else 1.0) * loss / (batch * 6)
    found = cross_view_distillation(student, teacher, damping)
    assert found.shape == () and float(found) == pytest.approx(expected)


def test_gradient():
    assert gradcheck(
        lambda own: cross_view_distillation(own, logits(seed=1), 0.5), logits(1).repeat(2, 1, 1, 1).requires_grad_()
    )


def test_the_teacher_gets_no_gradient():
    student, teacher = logits().requires_grad_(), logits(seed=1).requires_grad_()
    cross_view_distillation(student, teacher).backward()
    assert student.grad.any() and teacher.grad is None


def test_is_least_where_each_view_says_what_the_other_ones_teacher_does():
    teacher = logits(seed=1)
    swapped = teacher.roll(2, 0).requires_grad_()
    cross_view_distillation(swapped, teacher, 0.5).backward()
    torch.testing.assert_close(swapped.grad, torch.zeros_like(swapped))


def test_undamped_both_views_are_alike():
    student, teacher = logits(), logits(seed=1)
    swapped = cross_view_distillation(student.roll(2, 0), teacher.roll(2, 0))
    torch.testing.assert_close(cross_view_distillation(student, teacher), swapped)
    assert not torch.allclose(
        cross_view_distillation(student, teacher, 0.5),
        cross_view_distillation(student.roll(2, 0), teacher.roll(2, 0), 0.5),
    )


def test_large_logits_are_no_trouble():
    student = (1e4 * logits(dtype=torch.float32)).requires_grad_()
    loss = cross_view_distillation(student, 1e4 * logits(seed=1, dtype=torch.float32))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3, 4, 4), (2, 3, 4, 5)), ((3, 3, 4, 4), (3, 3, 4, 4)), ((2, 3, 4), (2, 3, 4))]
)
def test_other_shapes_are_refused(student, teacher):
    with pytest.raises(ValueError, match="expected"):
        cross_view_distillation(torch.zeros(student), torch.zeros(teacher))


def divergence(first, second):
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


class TestConsistency:
    mask = torch.tensor([[[True, False], [True, True]]])

    def test_released_values_are_those_of_a_naive_loop(self):
        student, teacher = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
        total = 0.0
        for row, column in ((0, 0), (1, 0), (1, 1)):
            wanted = (teacher[0, :, row, column] / 0.08).softmax(0).tolist()
            total += divergence(wanted, (student[0, :, row, column] / 0.08).softmax(0).tolist()) / 3
        assert float(prototype_consistency(student, teacher, self.mask, 0.08)) == pytest.approx(total / 3)

    def test_paper_values_are_those_of_a_naive_loop(self):
        strong, weak = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1).softmax(dim=1)
        total = 0.0
        for row, column in ((0, 0), (1, 0), (1, 1)):
            first, second = weak[0, :, row, column].tolist(), strong[0, :, row, column].softmax(0).tolist()
            total += divergence(first, second) + divergence(second, first)
        assert float(view_consistency(strong, weak, self.mask)) == pytest.approx(total / 3)

    def test_gradients(self):
        strong, weak = random(1, 3, 2, 2).requires_grad_(), random(1, 3, 2, 2, seed=1).requires_grad_()
        assert gradcheck(lambda s, w: view_consistency(s, w.softmax(dim=1), self.mask), (strong, weak))
        assert gradcheck(lambda s: prototype_consistency(s, weak, self.mask, 0.5), strong)
        weak.grad = None
        prototype_consistency(strong, weak, self.mask).backward()
        assert weak.grad is None

    def test_equal_views_cost_nothing(self):
        logits = 30 * random(2, 5, 3, 3, dtype=torch.float32)
        everywhere = torch.ones(2, 3, 3).bool()
        assert view_consistency(logits, logits.softmax(dim=1), everywhere).abs() < 1e-5
        assert prototype_consistency(logits, logits, everywhere, 0.08).abs() < 1e-6

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 9), st.floats(-2, 3))
    def test_other_views_cost_something(self, seed, power):
        strong, weak = 10**power * random(1, 3, 2, 2, seed=seed), random(1, 3, 2, 2, seed=seed + 1).softmax(dim=1)
        assert float(view_consistency(strong, weak, self.mask)) > 0

    def test_a_weak_view_with_zeros_is_no_trouble(self):
        strong = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).requires_grad_()
        weak = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
        loss = view_consistency(strong, weak, torch.ones(1, 1, 1).bool())
        loss.backward()
        assert loss.isfinite()
        assert strong.grad.isfinite().all()
        assert strong.grad[0, 0] > 0  # away from where the weak view is not
        assert weak.grad.isfinite().all()

    def test_what_is_masked_does_not_count(self):
        strong, weak = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
        other_strong, other_weak = strong.clone(), weak.clone()
        other_strong[..., 0, 1], other_weak[..., 0, 1] = 7.0, 250.0
        for loss in (
            lambda s, w: view_consistency(s, w.softmax(dim=1), self.mask),
            lambda s, w: prototype_consistency(s, w, self.mask),
        ):
            torch.testing.assert_close(loss(other_strong, other_weak), loss(strong, weak))

    def test_with_nothing_known_it_is_zero_and_connected(self):
        nothing = torch.zeros(1, 2, 2).bool()
        for loss in (view_consistency, prototype_consistency):
            strong = random(1, 3, 2, 2).requires_grad_()
            found = loss(strong, random(1, 3, 2, 2, seed=1).softmax(dim=1), nothing)
            found.backward()
            assert found == 0
            assert not strong.grad.any()

    @pytest.mark.parametrize("loss", [view_consistency, prototype_consistency])
    @pytest.mark.parametrize(("weak", "mask"), [((1, 3, 2, 3), (1, 2, 2)), ((1, 3, 2, 2), (1, 3, 2))])
    def test_other_shapes_are_refused(self, loss, weak, mask):
        with pytest.raises(ValueError, match="expected"):
            loss(torch.zeros(1, 3, 2, 2), torch.zeros(weak), torch.zeros(mask).bool())
