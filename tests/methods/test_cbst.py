"""CBST where no golden looks: its limits are source only and the oracle, and batches without labels."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Step, supervised
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.selection import ClassPools, class_balanced_labels, entropy_labels
from udaseg.types import IGNORE

KLD = {"kld": 0.1}


def run_of(soft: bool = False, norm: str = "train", **changes: Any) -> Any:
    knobs = {"soft": soft} | changes.pop("knobs", {})
    return stepper(train_spec("cbst", knobs=knobs, network={"norm": norm}, **changes))


def batch_of(run: Any, **target: Any) -> Batch:
    """A batch of what the run needs, with other fields of the target."""
    made = batch(0, needed(run.spec))
    return replace(made, target=replace(made.target, **target))


def terms_of(run: Any, made: Batch) -> dict[str, torch.Tensor]:
    return next(run.method.losses(made, Step(0, 100, run.weights, torch.Generator())))


def without_labels(run: Any, images: slice = slice(None)) -> dict[str, torch.Tensor]:
    """The run's pseudo-labels with none in `images`."""
    name = "soft" if run.spec.knobs["soft"] else "pseudo"
    labels = getattr(batch_of(run).target, name).clone()
    labels[images] = 0 if name == "soft" else IGNORE
    return {name: labels}


def gradients(run: Any, made: Batch) -> dict[str, torch.Tensor]:
    """Of the sum of all terms, weighted."""
    terms = terms_of(run, made)
    torch.stack([run.weights[name] * term for name, term in terms.items()]).sum().backward()
    return {name: parameter.grad for name, parameter in run.method.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_pseudo_labels_it_is_source_only_bit_by_bit(optimizer):
    ours = stepper(train_spec("cbst", weights={"pseudo": 0.0, "kld": 0.1}, optim={"name": optimizer}))
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method), tensors(theirs.method))


@torch.no_grad()
@pytest.mark.parametrize("soft", [False, True])
def test_the_terms_add_up_to_one_mean_over_the_labelled_pixels_of_the_batch(soft):
    run = run_of(soft, norm="eval")
    made = batch_of(run, **without_labels(run, slice(1)))  # one of the two target images
    made = replace(made, source=replace(made.source, label=made.source.label.clone()))
    made.source.label[:, :32] = IGNORE
    terms = terms_of(run, made)

    total, count = 0.0, 0
    for image, label in zip(made.source.image, made.source.label, strict=True):
        log = resize(run.method.net(image[None]).logits, label.shape).log_softmax(1)[0]
        for index in range(len(CLASSES)):
            total -= float(log[index][label == index].sum())
        count += int((label != IGNORE).sum())
    for image, index in zip(made.target.image, range(2), strict=True):
        label = made.target.soft[index] if soft else made.target.pseudo[index]
        log = resize(run.method.net(image[None]).logits, label.shape[-2:]).log_softmax(1)[0]
        if soft:
            total -= 16 * float((label * log).sum())  # a cell is 4 pixels high and wide
            count += 16 * int((label.sum(0) > 0).sum())
        else:
            for category in range(len(CLASSES)):
                total -= float(log[category][label == category].sum())
            count += int((label != IGNORE).sum())
    assert float(terms["seg"] + terms["pseudo"]) == pytest.approx(total / count, rel=1e-5)


def test_pseudo_labels_that_are_the_truth_give_the_supervised_loss():
    """The upper bound, for a test only: nothing of a target's truth is in a batch of a run."""
    run = run_of(norm="eval")
    made = batch_of(run)
    truth = batch(0).source  # any labelled images do
    made = replace(made, target=replace(made.target, image=truth.image, pseudo=truth.label))
    terms = terms_of(run, made)
    expected = supervised(run.method.net(truth.image).logits, truth)
    torch.testing.assert_close(terms["pseudo"], expected / 2)  # as many pixels are the source's
    torch.testing.assert_close(terms["seg"], terms["pseudo"])


@pytest.mark.parametrize("knobs", [{}, {"kld_weight": "released"}])
@pytest.mark.parametrize("soft", [False, True])
def test_each_term_reaches_the_student(soft, knobs):
    run = run_of(soft, weights=KLD, knobs=knobs)
    terms = terms_of(run, batch_of(run))
    assert list(terms) == ["seg", "pseudo", "kld"]
    parameters = [parameter for parameter in run.method.parameters() if parameter.requires_grad]
    for name, term in terms.items():
        found = torch.autograd.grad(term, parameters, retain_graph=True)
        assert all(gradient.any() for gradient in found), name


def test_a_step_lowers_the_loss_on_target_images():
    run = run_of(optim={"lr": 3e-3, "schedule": "constant"})
    made = batch_of(run)
    values = [run(index, [made])[0]["pseudo"] for index in range(30)]
    assert values[-1] < values[0] / 2


class TestKld:
    @pytest.mark.parametrize("soft", [False, True])
    def test_is_over_the_pseudo_labelled_pixels_only(self, soft):
        run = run_of(soft, norm="eval", weights=KLD)
        made = batch_of(run, **without_labels(run, slice(1)))
        found = terms_of(run, made)["kld"]
        label = made.target.soft[1].sum(0) > 0 if soft else made.target.pseudo[1] != IGNORE
        log = resize(run.method.net(made.target.image[1:]).logits, label.shape).log_softmax(1)[0]
        torch.testing.assert_close(found, -log.mean(0)[label].mean())

    def test_the_released_reading_multiplies_by_the_weight_once_more(self):
        paper, released = (run_of(weights=KLD, knobs={"kld_weight": reading}) for reading in ("paper", "released"))
        terms = [terms_of(run, batch_of(run)) for run in (paper, released)]
        torch.testing.assert_close(terms[1]["kld"], 0.1 * terms[0]["kld"])
        assert torch.equal(terms[0]["pseudo"], terms[1]["pseudo"])

    def test_it_holds_predictions_off_certainty(self):
        """Trained on the same batch with and without it, the regularised network is less sure."""
        runs = [run_of(weights=weights, optim={"lr": 3e-3, "schedule": "constant"}) for weights in ({}, {"kld": 1.0})]
        sureness = []
        for run in runs:
            made = batch_of(run)
            for index in range(15):
                run(index, [made])
            with torch.no_grad():
                sureness.append(float(run.method.net(made.target.image).logits.softmax(1).amax(1).mean()))
        assert sureness[1] < sureness[0]


class TestWithoutLabels:
    @pytest.mark.parametrize("soft", [False, True])
    def test_no_pseudo_label_at_all_leaves_the_source_loss(self, soft):
        run = run_of(soft, norm="eval", weights=KLD)
        made = batch_of(run, **without_labels(run))
        terms = terms_of(run, made)
        assert terms["pseudo"] == 0
        assert terms["kld"] == 0
        assert torch.equal(terms["seg"], supervised(run.method.net(made.source.image).logits, made.source))
        found = gradients(run, made)
        alone = stepper(train_spec("source_only", network={"norm": "eval"}))
        expected = gradients(alone, made)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name])

    @pytest.mark.parametrize("soft", [False, True])
    def test_a_batch_without_any_label_is_zero_in_all_terms_and_gradients(self, soft):
        run = run_of(soft, weights=KLD)
        made = batch_of(run, **without_labels(run))
        made = replace(made, source=replace(made.source, label=torch.full_like(made.source.label, IGNORE)))
        assert [float(term.detach()) for term in terms_of(run, made).values()] == [0, 0, 0]
        assert not any(gradient.any() for gradient in gradients(run, made).values())
        run(0, [made])  # the engine takes it, too

    @pytest.mark.parametrize("soft", [False, True])
    def test_a_target_image_without_labels_does_not_matter(self, soft):
        """Of two images, beside one without labels and beside none: the same, but for the share in `selected`."""
        run = run_of(soft, norm="eval", weights=KLD)
        made = batch_of(run, **without_labels(run, slice(1)))
        alone = {name: getattr(made.target, name)[1:] for name in ("image", *without_labels(run))}
        fewer = replace(made, target=replace(made.target, **alone))
        for found, expected in zip(terms_of(run, made).values(), terms_of(run, fewer).values(), strict=True):
            torch.testing.assert_close(found, expected)


class TestRounds:
    """The labels that a network's own predictions select, fed back."""

    def probabilities(self, run: Any) -> tuple[Batch, torch.Tensor]:
        made = batch_of(run)
        with torch.no_grad():
            logits = run.method.net(made.target.image).logits
        return made, resize(logits, made.target.image.shape[-2:]).softmax(1)

    def thresholds(self, probs: torch.Tensor, portion: float) -> torch.Tensor:
        pools = ClassPools(len(CLASSES), portion, every=4)
        while not pools.complete:
            for image in probs:
                pools.feed(image)
            pools.end_pass()
        return pools.thresholds()

    @pytest.mark.parametrize("never", [False, True])
    @pytest.mark.parametrize("portion", [0.0, 0.3, 1.0])
    def test_any_portion_gives_finite_terms(self, portion, never):
        run = run_of(norm="eval", weights=KLD)
        made, probs = self.probabilities(run)
        if never:  # a class that is predicted nowhere
            probs[:, 2] = 0
        pseudo = class_balanced_labels(probs, self.thresholds(probs, portion))
        share = float((pseudo != IGNORE).float().mean())
        assert share == 0 if portion == 0 else share >= portion * 0.5
        assert not (never and (pseudo == 2).any())
        terms, logs = run(0, [replace(made, target=replace(made.target, pseudo=pseudo))])
        assert (terms["pseudo"] > 0) == (portion > 0)
        assert logs["selected"] == pytest.approx(share)

    @pytest.mark.parametrize("portion", [0.0, 0.3, 1.0])
    def test_so_do_soft_labels(self, portion):
        run = run_of(soft=True, norm="eval", weights=KLD)
        made, probs = self.probabilities(run)
        quarter = resize(probs, made.target.soft.shape[-2:])
        found = entropy_labels(quarter, self.thresholds(probs, portion), 0.25)
        soft = found.soft * (found.hard != IGNORE)[:, None]
        terms, logs = run(0, [replace(made, target=replace(made.target, soft=soft))])
        assert (terms["pseudo"] > 0) == (portion > 0)
        assert logs["selected"] == pytest.approx(float((found.hard != IGNORE).float().mean()))

    def test_the_network_agrees_with_the_labels_that_it_selected_itself(self):
        run = run_of(norm="eval")
        _, probs = self.probabilities(run)
        pseudo = class_balanced_labels(probs, self.thresholds(probs, 0.1))
        chosen = cross_entropy(probs.log(), pseudo)
        assert chosen < cross_entropy(probs.log(), probs.argmax(1))


@pytest.mark.parametrize("soft", [False, True])
def test_at_rate_zero_the_parameters_stay(soft):
    run = run_of(soft, weights=KLD)
    run.spec = run.spec.model_copy(update={"optim": run.spec.optim.model_copy(update={"lr": 0.0})})
    run = stepper(run.spec)
    before = {name: parameter.clone() for name, parameter in run.method.named_parameters()}
    steps(run, 0, 2)
    assert equal(before, dict(run.method.named_parameters()))


def test_each_kind_of_label_is_a_view_of_its_own():
    spec = train_spec("cbst")
    assert needed(spec) == ["source", "target", "target.pseudo"]
    assert needed(train_spec("cbst", knobs={"soft": True})) == ["source", "target", "target.soft"]
    assert needed(train_spec("cbst", weights={"pseudo": 0.0})) == ["source"]
