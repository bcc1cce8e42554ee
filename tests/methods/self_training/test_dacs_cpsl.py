"""CPSL's self-labelling on DACS: off it is its host, on it rectifies the host's labels and trains prototypes only."""

import math

import pytest
import torch
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Context, Step
from udaseg.methods.self_training.dacs_cpsl import DACSCPSL, SPEC, Config
from udaseg.ops.maps import resize
from udaseg.ops.pseudo_labels import confidence_weighted

SMALL = {"queue": 64, "samples": 16}
OFF = {"self_label": 0.0}
HOSTS_OFF = {"mix": 0.0, "masked": 0.0}


def run_of(knobs=None, **changes):
    return stepper(train_spec("dacs_cpsl", knobs=SMALL | (knobs or {}), **changes))


def batch_of(run, index=0):
    return batch(index, needed(run.spec))


def terms_of(run, made):
    found, losses = {}, run.method.losses(made, Step(90, 100, run.weights, torch.Generator().manual_seed(0)))
    while True:
        try:
            found |= next(losses)
        except StopIteration as stop:
            return found, stop.value


def test_its_spec_is_its_hosts_with_one_term():
    theirs = METHODS["dacs"].SPEC
    assert dict(SPEC.weights) == {**theirs.weights, "self_label": 0.1}
    assert (SPEC.roles, SPEC.requires, SPEC.always) == (theirs.roles, theirs.requires, theirs.always)
    host = theirs.Config().model_dump()
    assert {name: value for name, value in Config().model_dump().items() if name in host} == host
    assert SPEC.streams(Config(), {"seg": 1.0, "self_label": 0.1}) == ["source", "target"]
    assert set(SPEC.consumes(Config(), {"seg": 1.0, "mix": 1.0, "self_label": 0.1})) == {"prototypes", "prior"}
    assert not set(SPEC.consumes(Config(), {"seg": 1.0, "mix": 1.0}))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_its_term_it_is_its_host_bit_by_bit(optimizer):
    ours = run_of(weights=OFF | {"masked": 1.0}, optim={"name": optimizer})
    theirs = stepper(train_spec("dacs", weights={"masked": 1.0}, optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 4)
    assert equal(tensors(ours.method), tensors(theirs.method))
    assert ours.method.labelling is None and list(ours.optimizers) == list(theirs.optimizers)


def test_without_rectification_the_student_learns_as_the_hosts_bit_by_bit():
    """The term trains the prototypes only, and draws its numbers after the host's."""
    ours = run_of({"rectify": False}, weights={"masked": 1.0, "self_label": 100.0})
    theirs = stepper(train_spec("dacs", weights={"masked": 1.0}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert equal(tensors(ours.method.teacher), tensors(theirs.method.teacher))
    before = run_of({"rectify": False}).method.labelling.prototypes
    assert not torch.equal(ours.method.labelling.prototypes, before)


def test_terms_come_in_groups():
    run = run_of(weights={"masked": 1.0})
    losses = run.method.losses(batch_of(run), Step(90, 100, run.weights, torch.Generator().manual_seed(0)))
    assert [list(group) for group in losses] == [["seg"], ["mix"], ["masked"], ["self_label"]]


def test_a_rectified_label_by_hand(monkeypatch):
    """Labels and confidence are of P * softmax(cosine / tau), normalised, at the teacher's stride."""
    run = run_of(network={"norm": "eval"})
    made, seen = batch_of(run), []

    def caught(logits, *arguments):
        seen.append(logits)
        return confidence_weighted(logits, *arguments)

    monkeypatch.setattr("udaseg.methods.self_training.dacs.confidence_weighted", caught)
    outputs = run.method.teacher(made.target.image)
    features, logits = outputs.features["embedding"], outputs.logits
    products = torch.empty_like(logits)
    moving = run.method.labelling.teacher
    for image in range(2):
        for row in range(logits.shape[2]):
            for column in range(logits.shape[3]):
                feature = features[image, :, row, column]
                cosine = (moving @ feature) / (moving.norm(dim=1) * feature.norm())
                weight = (cosine / 0.08).softmax(0)
                products[image, :, row, column] = weight * logits[image, :, row, column].softmax(0)
    wanted = products / products.sum(1, keepdim=True)
    terms_of(run, made)
    judged = run.method.judge(outputs).logits.softmax(1)
    torch.testing.assert_close(judged, wanted, rtol=1e-4, atol=1e-6)
    assert not torch.equal(wanted.argmax(1), logits.argmax(1))
    torch.testing.assert_close(seen[0].argmax(1), resize(wanted.log(), (64, 64)).argmax(1))


def test_self_labelling_trains_the_prototypes_only_and_the_teacher_gets_nothing():
    run = run_of()
    terms, drawn = terms_of(run, batch_of(run))
    run.method.zero_grad(set_to_none=True)
    terms["self_label"].backward()
    reached = {name for name, parameter in run.method.named_parameters() if parameter.grad is not None}
    assert reached == {"labelling.prototypes"}
    assert not drawn.rows.requires_grad
    steps(run, 0, 1)
    assert all(parameter.grad is None for parameter in run.method.teacher.parameters())


@pytest.mark.parametrize("weights", [{}, {"masked": 1.0}, HOSTS_OFF])
def test_the_teacher_sees_the_images_once(weights):
    run = run_of(weights=weights)
    seen = []
    run.method.teacher.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made = batch_of(run)
    values, _ = run(0, [made])
    assert len(seen) == 1 and torch.equal(seen[0], made.target.image)
    assert values["self_label"] > 0


def test_each_batch_of_a_step_is_judged_by_its_own_images():
    run = run_of()
    run.method.labelling.update, shares = (lambda drawn: shares.append(drawn.shares)), []
    first, second = batch_of(run), batch_of(run, 1)
    run(0, [first, second])
    assert len(shares) == 2 and not torch.equal(*shares)


def test_what_is_remembered_moves_after_the_step_as_the_teacher_does():
    run = run_of({"prior_keep": 0.5, "ema": 0.75}, network={"norm": "eval"})
    labelling = run.method.labelling
    before = tensors(labelling)
    terms_of(run, batch_of(run))
    assert equal(before, tensors(labelling))
    run(0, [batch_of(run)])
    assert int(labelling.queue.filled) > 0
    assert not torch.equal(labelling.prior, before["prior"])
    # The first update keeps half, the second one 2/3, the third and all further ones `ema`.
    torch.testing.assert_close(labelling.teacher, (before["teacher"] + labelling.prototypes.detach()) / 2)
    for index, keep in ((1, 2 / 3), (2, 0.75), (3, 0.75)):
        old = labelling.teacher.clone()
        run(index, [batch_of(run, index)])
        torch.testing.assert_close(labelling.teacher, keep * old + (1 - keep) * labelling.prototypes.detach())


def test_beyond_the_image_nothing_is_drawn():
    run = run_of({"sampler": "released", "samples": 10000})
    made = batch_of(run)
    made.target.valid[:, :16] = False
    _, drawn = terms_of(run, made)
    outputs = run.method.teacher(made.target.image)
    assert len(drawn.rows) == 2 * outputs.logits[0, 0].numel() * 3 // 4
    torch.testing.assert_close(drawn.shares.sum(1), torch.full((2,), 0.75))


def test_where_the_teacher_says_a_class_without_a_prototype_it_is_believed():
    run = run_of()
    with torch.no_grad():
        run.method.labelling.prototypes[1] = 0
    run.method.labelling.teacher[1] = 0
    run.method.labelling.prior.copy_(torch.tensor([1.0, 0.0, 0.0]))
    outputs = run.method.teacher(batch_of(run).target.image)
    plain = outputs.logits.clone()
    plain[:, 1, :, :8] += 100
    plain[:, 1, :, 8:] -= 100
    judged = run.method.judge(outputs._replace(logits=plain)).logits
    assert torch.equal(judged[..., :8], plain[..., :8])
    assert not (judged[..., 8:].argmax(1) == 1).any()
    for index in range(2):
        values, _ = run(index, [batch_of(run, index)])
        assert all(math.isfinite(value) for value in values.values())


def test_prototypes_of_another_network_are_refused():
    spec = train_spec("dacs_cpsl")
    context = Context(Config(), SPEC.active(SPEC.weights), CLASSES, spec.network, 0)
    with pytest.raises(UserError, match="prototypes"):
        DACSCPSL(context)
    DACSCPSL(Context(Config(), {"seg": 1.0, "mix": 1.0}, CLASSES, spec.network, 0))  # which needs none


def test_half_precision_is_finite():
    run = run_of({"logit_term": "released"}, train={"precision": "bf16"})
    values, _ = run(0, [batch_of(run)])
    assert set(values) == {"seg", "mix", "self_label"} and all(map(math.isfinite, values.values()))
    assert run.method.labelling.prototypes.dtype == torch.float32
