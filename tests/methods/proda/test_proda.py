"""ProDA's first stage where no golden looks: its limits, its degenerate cases, and what moves when."""

from dataclasses import replace

import pytest
import torch
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.views import Geometry
from udaseg.errors import UserError
from udaseg.methods.base import Context, Step
from udaseg.methods.proda import proda
from udaseg.methods.proda.proda import SPEC, Config, ProDA
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.prototypes import class_means, momentum_update
from udaseg.ops.regularisers import regulariser
from udaseg.ops.warp import Warp

TARGET_TERMS = ("sce", "consist", "reg")


def run_of(**changes):
    return stepper(train_spec("proda", **changes))


def batch_of(run, index=0, **target):
    """A batch with all that the run needs; some of the target's views are replaced."""
    made = batch(index, needed(run.spec))
    return replace(made, target=replace(made.target, **target))


def terms_of(run, made):
    """The target's terms, unweighted, and what the step carries on. The network is as before afterwards."""
    found = {}
    losses = run.method.losses(made, Step(90, 100, run.weights, torch.Generator()))
    while True:
        try:
            found |= next(losses)
        except StopIteration as stop:
            return found, stop.value


def gradients(run, term):
    run.method.zero_grad(set_to_none=True)
    term.backward()
    return [parameter.grad for parameter in run.method.net.parameters() if parameter.grad is not None]


def quarter(size):
    return size // 4, size // 4


@pytest.mark.parametrize("term", TARGET_TERMS)
def test_each_term_reaches_the_student_and_nothing_else(term):
    run = run_of()
    terms, _ = terms_of(run, batch_of(run))
    assert any(gradient.any() for gradient in gradients(run, terms[term]))
    assert all(parameter.grad is None for parameter in run.method.teacher.parameters())
    assert not run.method.prototypes.requires_grad


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_its_terms_it_is_source_only_bit_by_bit(optimizer):
    ours = run_of(optim={"name": optimizer}, weights=dict.fromkeys(TARGET_TERMS, 0.0))
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert ours.method.teacher is None


def test_with_true_soft_labels_sce_is_the_supervised_loss():
    """The upper bound: whatever the prototypes say, they cannot turn a certain label."""
    run = run_of(knobs={"symmetric": False})
    truth = torch.randint(len(CLASSES), (2, 16, 16), generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.one_hot(truth, len(CLASSES)).movedim(-1, 1).float()
    made = batch_of(run, soft=soft)
    terms, _ = terms_of(run, made)
    logits = resize(run.method.net(made.target.image).logits, quarter(64))
    torch.testing.assert_close(terms["sce"], cross_entropy(logits, truth))


def test_symmetric_without_its_reverse_part_is_the_ordinary_loss():
    ordinary, symmetric = run_of(knobs={"symmetric": False}), run_of(knobs={"alpha": 1.0, "beta": 0.0})
    made = batch_of(ordinary)
    assert torch.equal(terms_of(ordinary, made)[0]["sce"], terms_of(symmetric, made)[0]["sce"])


class TestLabels:
    def test_without_rectification_they_are_fixed_and_the_whole_image_is_not_needed(self):
        run = run_of(knobs={"rectify": False}, weights={"consist": 0.0})
        assert needed(run.spec) == ["source", "target", "target.soft"]
        assert run.method.teacher is None
        made = batch_of(run)
        first = terms_of(run, made)[0]["sce"]
        run.method.prototypes = run.method.prototypes * 3
        assert torch.equal(terms_of(run, made)[0]["sce"], first)

    def test_identical_prototypes_rectify_nothing(self):
        rectified, fixed = run_of(), run_of(knobs={"rectify": False})
        rectified.method.prototypes = torch.ones_like(rectified.method.prototypes)
        made = batch_of(rectified)
        assert torch.equal(terms_of(rectified, made)[0]["sce"], terms_of(fixed, made)[0]["sce"])

    def test_near_prototypes_turn_uncertain_labels(self):
        run = run_of(knobs={"temperature": 100.0})
        made = batch_of(run)
        made = replace(made, target=replace(made.target, soft=torch.full((2, 3, 16, 16), 1 / 3)))
        view = run.method._teacher_view(run.method.teacher, made.target)
        labels = run.method._labels(made.target, view, Step(0, 1, run.weights, torch.Generator()))
        assert torch.equal(labels, view.assignment.argmax(1))

    @pytest.mark.parametrize("changes", [{"soft": torch.zeros(2, 3, 16, 16)}, {}])
    def test_with_all_ignored_sce_is_zero_and_the_rest_goes_on(self, changes):
        run = run_of(knobs={} if changes else {"threshold": 1.01})
        values, logs = run(0, [batch_of(run, **changes)])
        assert values["sce"] == 0
        assert values["reg"] > 0
        assert logs["labelled"] == 0

    def test_a_class_that_was_never_seen_gives_no_label(self):
        run = run_of()
        run.method.counts = torch.tensor([1.0, 0.0, 1.0])
        made = batch_of(run, soft=torch.tensor([0.1, 0.8, 0.1]).view(1, 3, 1, 1).expand(2, 3, 16, 16))
        view = run.method._teacher_view(run.method.teacher, made.target)
        labels = run.method._labels(made.target, view, Step(0, 1, run.weights, torch.Generator()))
        assert not (labels == 1).any()
        terms, _ = terms_of(run, made)
        assert all(term.isfinite() for term in terms.values())

    def test_with_no_class_seen_the_soft_labels_decide(self):
        run, fixed = run_of(), run_of(knobs={"rectify": False})
        run.method.counts = torch.zeros(3)
        run.method.prototypes = torch.zeros_like(run.method.prototypes)
        made = batch_of(run)
        terms, _ = terms_of(run, made)
        assert torch.equal(terms["sce"], terms_of(fixed, made)[0]["sce"])
        assert float(terms["consist"].detach()) == pytest.approx(0, abs=1e-6)


class TestBeyondTheImage:
    """Crops that reach 16 pixels over the upper and left edge of images that end where the crops do."""

    def run_and_batch(self):
        run = run_of()
        made = batch_of(run)
        geometry = tuple(Geometry((48, 48), (-16, -16), (64, 64), flip) for flip in (False, True))
        seen = [one.apply(image, "bilinear") for one, image in zip(geometry, made.target.full, strict=True)]
        image, valid = map(torch.stack, zip(*seen, strict=True))
        warps = (Warp(()), Warp((("flip", 0.0),)))
        return run, replace(
            made, target=replace(made.target, image=image, valid=valid, geometry=geometry, strong=image, warps=warps)
        )

    def test_labels_there_do_not_count(self):
        run, made = self.run_and_batch()
        inside = made.target.valid[:, 2::4, 2::4]
        assert inside.float().mean() == (12 / 16) ** 2
        values = [
            terms_of(run, replace(made, target=replace(made.target, soft=soft)))[0]["sce"]
            for other in (made.target.soft.flip(1), torch.zeros_like(made.target.soft))
            for soft in [torch.where(inside[:, None], made.target.soft, other)]
        ]
        assert torch.equal(*values)

    def test_the_strong_view_is_compared_with_what_is_inside_only(self, monkeypatch):
        run, made = self.run_and_batch()
        masks = []
        monkeypatch.setattr(proda, "structure_kl", lambda logits, wanted, mask: masks.append(mask) or logits.sum() * 0)
        terms_of(run, made)
        inside = made.target.valid[:, 2::4, 2::4]
        assert torch.equal(masks[0], torch.stack([inside[0], inside[1].flip(-1)]))

    def test_predictions_there_are_not_regularised(self):
        run, made = self.run_and_batch()
        terms, _ = terms_of(run, made)
        logits = resize(run.method.net(made.target.image).logits, quarter(64))
        torch.testing.assert_close(terms["reg"], regulariser(logits, made.target.valid[:, 2::4, 2::4]))


class TestStructure:
    def test_a_teacher_that_is_the_student_agrees_on_the_same_view(self):
        run = run_of(network={"norm": "eval"})
        made = batch_of(run)
        geometry = (Geometry((64, 64), (0, 0), (64, 64), False),) * 2
        same = {"full": made.target.image, "strong": made.target.image, "geometry": geometry, "warps": (Warp(()),) * 2}
        agreed, _ = terms_of(run, replace(made, target=replace(made.target, **same)))
        differing, _ = terms_of(
            run, replace(made, target=replace(made.target, **same | {"strong": made.target.strong}))
        )
        assert float(agreed["consist"].detach()) == pytest.approx(0, abs=1e-6)
        assert float(differing["consist"].detach()) > 1e-5

    @pytest.mark.parametrize("convention", ["paper", "released"])
    def test_a_strong_view_that_is_all_cut_out_teaches_nothing(self, convention):
        run = run_of(knobs={"strong_warp": convention})
        terms, _ = terms_of(run, batch_of(run, warps=(Warp((), cutout=(0, 0, 64, 64)),) * 2))
        assert float(terms["consist"].detach()) == 0
        assert not any(gradient.any() for gradient in gradients(run, terms["consist"]))

    def test_the_conventions_of_the_strong_view_differ(self):
        warps = (Warp((("rotate", 20.0), ("shear_x", 0.2))),) * 2
        values = []
        for convention in ("paper", "released"):
            run = run_of(knobs={"strong_warp": convention})
            values.append(terms_of(run, batch_of(run, warps=warps))[0]["consist"])
        assert not torch.equal(*values)


class TestAfterTheStep:
    def test_prototypes_follow_the_teacher_of_before_and_the_teacher_the_student_of_after(self):
        run = run_of(knobs={"prototype_momentum": 0.3, "ema": 0.9}, network={"norm": "eval"})
        before = tensors(run.method.teacher)
        prototypes, counts = run.method.prototypes, run.method.counts
        made = [batch_of(run, index) for index in (0, 1)]
        for one in made:  # in evaluation mode, so that asking it changes nothing
            outputs = run.method.teacher(one.target.full)
            size = (16, 24)
            means = class_means(resize(outputs.features["embedding"], size), resize(outputs.logits, size))
            prototypes, counts = momentum_update(prototypes, counts, means, 0.3)
        run(0, made)
        torch.testing.assert_close(run.method.prototypes, prototypes)
        assert torch.equal(run.method.counts, counts)
        assert counts.sum() > 3
        student = tensors(run.method.net)
        for name, value in tensors(run.method.teacher.net).items():
            if value.is_floating_point() and "running" not in name:
                torch.testing.assert_close(value, 0.9 * before[f"net.{name}"] + 0.1 * student[name])

    def test_prototypes_that_do_not_move_stay(self):
        run = run_of(knobs={"moving_prototypes": False})
        before, teacher = run.method.prototypes.clone(), tensors(run.method.teacher)
        steps(run, 0, 2)
        assert torch.equal(run.method.prototypes, before)
        assert not equal(tensors(run.method.teacher), teacher)

    def test_a_prototype_that_was_never_seen_takes_its_first_mean_whole(self):
        run = run_of(network={"norm": "eval"})
        run.method.counts = torch.zeros(3)
        made = batch_of(run)
        outputs = run.method.teacher(made.target.full)
        means = class_means(resize(outputs.features["embedding"], (16, 24)), resize(outputs.logits, (16, 24)))
        run(0, [made])
        first = means.present[0]
        assert first.any()
        torch.testing.assert_close(run.method.prototypes[first], means.vectors[0][first], rtol=1e-3, atol=1e-3)

    def test_a_class_that_is_absent_keeps_its_prototype(self):
        run = run_of(knobs={"prototype_momentum": 0.5})
        for head in (run.method.net.head, run.method.teacher.net.head):
            with torch.no_grad():
                head.branches[0].bias[1] = -100
        before = run.method.prototypes.clone()
        run(0, [batch_of(run)])
        assert torch.equal(run.method.prototypes[1], before[1])
        assert not torch.equal(run.method.prototypes, before)

    @pytest.mark.parametrize("teacher_mode", ["paper", "released"])
    def test_the_teachers_mode_and_statistics(self, teacher_mode):
        run = run_of(knobs={"teacher_mode": teacher_mode})
        run(0, [batch_of(run)])
        assert run.method.teacher.net.training == (teacher_mode == "released")
        for kept, new in zip(run.method.teacher.net.buffers(), run.method.net.buffers(), strict=True):
            assert torch.equal(kept, new)


def test_artifacts_are_asked_for_only_where_prototypes_are_used():
    def consumed(*terms, **knobs):
        return set(SPEC.consumes(Config(**knobs), dict.fromkeys(("seg", *terms), 1.0)))

    both = {"prototypes", "counts"}
    assert consumed(*TARGET_TERMS) == consumed("sce") == consumed("consist", rectify=False) == both
    assert consumed("sce", "reg", rectify=False) == consumed("reg") == set()


def test_prototypes_of_another_network_are_refused():
    spec = train_spec("proda")
    context = Context(Config(), SPEC.weights, CLASSES, spec.network, 0, artifacts={"prototypes": torch.zeros(3, 7)})
    with pytest.raises(UserError, match="prototypes"):
        ProDA(context)


def test_half_precision_is_finite_and_keeps_prototypes_in_full():
    run = run_of(train={"precision": "bf16"})
    terms, _ = run(0, [batch_of(run)])
    assert set(terms) == {"seg", *TARGET_TERMS}
    assert run.method.prototypes.dtype == torch.float32
