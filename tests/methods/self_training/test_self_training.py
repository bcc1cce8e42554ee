"""Checks that hold for every method that learns from pseudo-labels, before its scores are believed."""

import pytest
import torch
from support.tiny import batch, equal, needed, stepper, steps, tensors, train_spec

SELF_TRAINING = ("dacs", "daformer", "cbst", "proda", "proda_distill")


@pytest.mark.parametrize("method", SELF_TRAINING)
def test_at_rate_zero_and_with_fixed_statistics_the_student_is_its_parent(method: str) -> None:
    """So that its score is the parent's, too: the predictor's tensors are the same, bit by bit."""
    spec = train_spec(method, network={"norm": "eval"})
    spec = spec.model_copy(update={"optim": spec.optim.model_copy(update={"lr": 0.0})})
    run = stepper(spec)
    parent = tensors(run.method.predictor())
    steps(run, 0, 3)
    assert equal(tensors(run.method.predictor()), parent)


@pytest.mark.parametrize("method", SELF_TRAINING)
def test_a_step_goes_down_the_losses_that_it_was_taken_on(method: str) -> None:
    """The sign: on one batch, again and again, what the method minimises falls."""
    spec = train_spec(method, optim={"lr": 1e-3, "schedule": "constant"}, network={"norm": "eval"})
    run = stepper(spec)
    given = [batch(0, needed(spec))]

    def total(index: int) -> float:
        terms, _ = run(index, given)
        return sum(run.weights[name] * value for name, value in terms.items())

    values = [total(index) for index in range(25)]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


@pytest.mark.parametrize("method", SELF_TRAINING)
def test_target_images_alone_move_the_student(method: str) -> None:
    """The gradient of everything but the source's term reaches the student."""
    spec = train_spec(method)
    run = stepper(spec)
    run.weights["seg"] = 0.0
    before = tensors(run.method.predictor())
    run(0, [batch(0, needed(spec))])
    after = tensors(run.method.predictor())
    changed = [
        name for name, value in after.items() if value.is_floating_point() and not torch.equal(value, before[name])
    ]
    assert any(name.startswith("backbone.") and "weight" in name for name in changed)
    assert any(name.startswith("head.") for name in changed)
