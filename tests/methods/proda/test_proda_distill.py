"""ProDA's distillation where no golden looks: its limits, its degenerate cases, and who gets a gradient."""

from dataclasses import replace

import pytest
import torch
from support.tiny import batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.methods.base import Step
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.warp import Warp


def run_of(**changes):
    return stepper(train_spec("proda_distill", **changes))


def batch_of(run, index=0, **target):
    """A batch with all that the run needs; some of the target's views are replaced."""
    made = batch(index, needed(run.spec))
    return replace(made, target=replace(made.target, **target))


def terms_of(run, made):
    """The target's terms, unweighted."""
    found = {}
    for group in run.method.losses(made, Step(90, 100, run.weights, torch.Generator())):
        found |= group
    return found


@pytest.mark.parametrize("term", ["pseudo", "kd"])
@pytest.mark.parametrize("kd", ["paper", "released"])
def test_each_term_reaches_the_student_and_nothing_else(term, kd):
    run = run_of(knobs={"kd": kd})
    terms_of(run, batch_of(run))[term].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in run.method.net.parameters())
    assert all(parameter.grad is None for parameter in run.method.teacher.net.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_its_terms_it_is_source_only_bit_by_bit(optimizer):
    ours = run_of(optim={"name": optimizer}, weights={"pseudo": 0.0, "kd": 0.0})
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method), tensors(theirs.method))
    assert needed(ours.spec) == ["source"]


def test_the_teacher_stays_and_is_not_in_the_state():
    run = run_of()
    before = tensors(run.method.teacher.net)
    steps(run, 0, 2)
    assert equal(before, tensors(run.method.teacher.net))
    assert not run.method.teacher.net.training
    assert set(run.method.state_dict()) == {f"net.{name}" for name in run.method.net.state_dict()}


def test_with_labels_only_there_is_no_teacher():
    run = run_of(weights={"kd": 0.0})
    assert run.method.teacher is None
    assert set(run(0, [batch_of(run)])[0]) == {"seg", "pseudo"}


def test_the_true_labels_give_the_supervised_loss():
    """The upper bound: the truth as pseudo-labels of an unchanged view, of which each cell takes its centre's."""
    run = run_of(weights={"kd": 0.0})
    truth = torch.randint(3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    made = batch_of(run, pseudo=truth, warps=(Warp(()),) * 2)
    logits = resize(run.method.net(made.target.strong).logits, (16, 16))
    torch.testing.assert_close(terms_of(run, made)["pseudo"], cross_entropy(logits, truth[:, 2::4, 2::4]))


def test_labels_follow_the_strong_view():
    run = run_of(weights={"kd": 0.0})
    truth = torch.randint(3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    made = batch_of(run, pseudo=truth, warps=(Warp((("flip", 0.0),), cutout=(0, 0, 64, 32)),) * 2)
    logits = resize(run.method.net(made.target.strong).logits, (16, 16))
    cells = truth[:, 2::4, 2::4].flip(-1).clone()
    cells[:, :8] = 255
    torch.testing.assert_close(terms_of(run, made)["pseudo"], cross_entropy(logits, cells))


@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize(
    "degenerate",
    [{"pseudo": torch.full((2, 64, 64), 255)}, {"warps": (Warp((), cutout=(0, 0, 64, 64)),) * 2}],
    ids=["no label", "all cut out"],
)
def test_without_any_label_pseudo_is_zero_and_the_rest_goes_on(degenerate, convention):
    run = run_of(knobs={"strong_warp": convention})
    values, logs = run(0, [batch_of(run, **degenerate)])
    assert values["pseudo"] == 0
    assert values["kd"] > 0
    assert logs["labelled"] == 0


def test_a_teacher_that_is_the_student_has_nothing_to_say():
    run = run_of(network={"norm": "eval"})
    run.method.teacher.net.load_state_dict(run.method.net.state_dict())
    assert float(terms_of(run, batch_of(run))["kd"].detach()) == pytest.approx(0, abs=1e-6)


def test_the_released_divergence_is_another_one():
    paper, released = run_of(), run_of(knobs={"kd": "released"})
    made = batch_of(paper)
    assert not torch.equal(terms_of(paper, made)["kd"], terms_of(released, made)["kd"])


def test_half_precision_is_finite():
    run = run_of(train={"precision": "bf16"})
    assert set(run(0, [batch_of(run)])[0]) == {"seg", "pseudo", "kd"}
