import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.cross_view import cross_view_distillation


def logits(batch=2, classes=3, height=2, width=3, seed=0, dtype=torch.float64):
    maps = torch.randn(2 * batch, classes, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 2 * maps


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
