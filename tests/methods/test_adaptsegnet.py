"""AdaptSegNet where no golden looks: its limit is source only, and its gradients push the way they say."""

import pytest
import torch
from support.tiny import batch, equal, stepper, steps, tensors, train_spec

from udaseg.methods.base import Step
from udaseg.ops.adversarial import SOURCE, TARGET, domain_loss, output_space

LEVELS = {"adv": "main", "adv_aux": "aux"}


def run_of(gan="vanilla", levels=1, optimizer="adamw", **changes):
    knobs = {"width": 4, "gan": gan, "levels": levels} | changes.pop("knobs", {})
    return stepper(train_spec("adaptsegnet", knobs=knobs, optim={"name": optimizer}, **changes))


def groups(run):
    return run.method.losses(batch(0), Step(90, 100, run.weights, torch.Generator()))


@torch.no_grad()
def mistakes(run, level, domain):
    """The discriminator's loss on a domain's predictions, given the truth: how far it is fooled."""
    outputs = run.method.net(getattr(batch(0), domain).image)
    logits = outputs.logits if level == "main" else outputs.aux_logits
    discriminated = run.method.discriminators[level](output_space(logits, (64, 64)))
    return domain_loss(discriminated, TARGET if domain == "target" else SOURCE, run.method.knobs.gan)


def separable(gan, **knobs):
    """A run of two levels whose predictions differ between the domains; untrained heads give one map for all images."""
    run = run_of(gan, levels=2, knobs=knobs)
    with torch.no_grad():
        for head in (run.method.net.head, run.method.net.aux_head):
            head.branches[0].weight.mul_(200)
    return run


def train_discriminators(run, count):
    """Steps of the discriminators alone."""
    optimizer = torch.optim.Adam(run.method.discriminators.parameters(), 3e-3)
    for _ in range(count):
        optimizer.zero_grad()
        *_, last = groups(run)
        last["disc"].backward()
        optimizer.step()


def follow(loss, parameters, rate):
    """One step of gradient descent on `loss`."""
    parameters = list(parameters)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= rate * gradient


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_the_adversarial_term_it_is_source_only_bit_by_bit(optimizer):
    ours = run_of(optimizer=optimizer, weights={"adv": 0.0})
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))


def test_two_levels_without_any_further_term_are_source_only_on_the_main_level():
    off = {"seg_aux": 0.0, "adv": 0.0, "adv_aux": 0.0}
    ours, theirs = run_of(levels=2, weights=off), stepper(train_spec("source_only"))
    for run in (ours, theirs):
        steps(run, 0, 3)
    main = {name: tensor for name, tensor in tensors(ours.method.net).items() if not name.startswith("aux_head.")}
    assert equal(main, tensors(theirs.method.net))


@pytest.mark.parametrize("gan", ["vanilla", "least_squares"])
@pytest.mark.parametrize(
    ("discriminator", "term"), [("adaptsegnet", "adv"), ("adaptsegnet", "adv_aux"), ("proda", "adv")]
)
def test_a_step_on_the_adversarial_term_fools_the_discriminator(gan, discriminator, term):
    run = separable(gan, discriminator=discriminator)
    train_discriminators(run, 20)
    losses = groups(run)
    next(losses)
    before = mistakes(run, LEVELS[term], "target")
    follow(next(losses)[term], run.method.net.backbone.parameters(), rate=1e-4)
    assert mistakes(run, LEVELS[term], "target") > before


@pytest.mark.parametrize("gan", ["vanilla", "least_squares"])
@pytest.mark.parametrize(
    ("discriminator", "level", "count"),
    [("adaptsegnet", "main", 40), ("adaptsegnet", "aux", 40), ("proda", "main", 80)],
)
def test_the_discriminator_learns_on_separable_maps(gan, discriminator, level, count):
    run = separable(gan, discriminator=discriminator)
    before = mistakes(run, level, "source") + mistakes(run, level, "target")
    train_discriminators(run, count)
    assert mistakes(run, level, "source") + mistakes(run, level, "target") < before / 2
    _, logs = run(0, [batch(0)])  # diagnostics are of the predictions before the step
    assert logs["domain_accuracy" if level == "main" else "domain_accuracy_aux"] > 0.9


def test_each_side_leaves_the_other_alone():
    run = run_of(levels=2)
    losses = groups(run)
    next(losses)
    torch.stack(list(next(losses).values())).sum().backward()
    assert all(parameter.grad is None for parameter in run.method.discriminators.parameters())
    assert run.method.net.backbone.stem[0].weight.grad.any()
    run.method.zero_grad(set_to_none=True)
    next(losses)["disc"].backward()
    assert all(parameter.grad is None for parameter in run.method.net.parameters())
    assert all(parameter.grad.any() for parameter in run.method.discriminators.parameters())


@pytest.mark.parametrize(("discriminator", "stride"), [("adaptsegnet", 32), ("proda", 16)])
def test_the_knob_picks_the_discriminator(discriminator, stride):
    run = run_of(knobs={"discriminator": discriminator})
    logits = run.method.discriminators["main"](torch.rand(1, 3, 64, 96))
    assert tuple(logits.shape[2:]) == (64 // stride, 96 // stride)


def test_both_levels_are_discriminated_and_logged():
    terms, logs = run_of(levels=2)(90, [batch(0)])
    assert set(terms) == {"seg", "seg_aux", "adv", "adv_aux", "disc"}
    assert set(logs) == {"domain_accuracy", "domain_accuracy_aux"}


@pytest.mark.parametrize(("off", "kept"), [("adv", "aux"), ("adv_aux", "main")])
def test_a_level_without_adversarial_weight_has_no_discriminator_term(off, kept):
    run = run_of(levels=2, weights={off: 0.0})
    run(90, [batch(0)])
    for level, discriminator in run.method.discriminators.items():
        for parameter in discriminator.parameters():
            assert (parameter.grad is not None) == (level == kept)
