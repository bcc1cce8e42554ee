"""DANN where no golden looks: its limits are its bounds, and its gradient pushes the way it says."""

import pytest
import torch
from support.tiny import batch, equal, stepper, steps, tensors, train_spec

from udaseg.methods.base import Step
from udaseg.ops.adversarial import SOURCE, TARGET, domain_loss

KNOBS = {"hidden": 16, "dropout": 0.0, "reversal": 1.0}


def run_of(optimizer="adamw", **changes):
    return stepper(train_spec("dann", knobs=KNOBS | changes.pop("knobs", {}), optim={"name": optimizer}, **changes))


def terms_of(run, index=90):
    step = Step(index, 100, run.weights, torch.Generator())
    return next(run.method.losses(batch(0), step))


def domain_term(run):
    """The domain loss as the classifier sees it, without the reversal."""
    features = {name: run.method.net(getattr(batch(0), name).image).features for name in ("source", "target")}
    logits = {name: run.method.classifier(maps[run.method.knobs.feature]) for name, maps in features.items()}
    return domain_loss(logits["source"], SOURCE) + domain_loss(logits["target"], TARGET)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_the_domain_term_it_is_source_only_bit_by_bit(optimizer):
    ours = run_of(optimizer, weights={"domain": 0.0})
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_reversal_its_network_is_adabn_bit_by_bit(optimizer):
    # No gradient of the domain term reaches the network, but target images move its running statistics, and in the same
    # order: source, then target, before the weights change.
    ours = run_of(optimizer, knobs={"reversal": 0.0})
    theirs = stepper(train_spec("adabn", optim={"name": optimizer}))
    bound = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs, bound):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert not equal(tensors(ours.method.net), tensors(bound.method.net))


def test_a_step_along_the_networks_gradient_confuses_the_classifier():
    run = run_of()
    parameters = list(run.method.net.backbone.parameters())
    gradients = torch.autograd.grad(terms_of(run)["domain"], parameters, allow_unused=True)
    before = domain_term(run)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-2 * gradient  # as an optimizer would
    assert domain_term(run) > before


def test_a_step_along_the_classifiers_gradient_makes_it_tell_the_domains_apart():
    run = run_of()
    parameters = list(run.method.classifier.parameters())
    gradients = torch.autograd.grad(terms_of(run)["domain"], parameters)
    before = domain_term(run)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 1e-2 * gradient
    assert domain_term(run) < before


def test_reversal_scales_what_reaches_the_network_and_nothing_of_the_classifiers_own():
    def gradients(reversal):
        run = run_of(knobs={"reversal": reversal})
        terms_of(run)["domain"].backward()
        return run.method.net.backbone.stem[0].weight.grad, run.method.classifier.convs[0].weight.grad

    (network, classifier), (less, same) = gradients(1.0), gradients(0.25)
    torch.testing.assert_close(less, network / 4)
    assert torch.equal(classifier, same)


def test_nothing_of_the_domain_reaches_the_network_at_the_first_step():
    run = run_of()
    terms_of(run, index=0)["domain"].backward()
    assert not run.method.net.backbone.stem[0].weight.grad.any()
    assert run.method.classifier.convs[0].weight.grad.any()


def test_the_classifier_learns_on_separable_domains():
    run = run_of(knobs={"reversal": 0.0, "classifier_lr": 1e-2})
    logs = [run(index, [batch(0)])[1]["domain_accuracy"] for index in range(40)]
    assert logs[-1] > 0.9
