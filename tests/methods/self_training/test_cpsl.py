"""CPSL's first stage where no golden looks: whom its terms reach, its labels, what moves when, its limits and knobs."""

import math
from dataclasses import replace

import pytest
import torch
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.views import Geometry
from udaseg.errors import UserError
from udaseg.methods.base import Context, Step
from udaseg.methods.self_training import cpsl
from udaseg.methods.self_training.cpsl import CPSL, SPEC, Config
from udaseg.methods.self_training.self_labelling import FixedPrototypes
from udaseg.ops.consistency import view_consistency
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.warp import Warp

TERMS = ("target", "self_label", "reg")
SMALL = {"queue": 64, "samples": 16}
ALL = 16 * 16  # samples: every pixel of a crop at the working resolution
WHOLE = (Geometry((64, 64), (0, 0), (64, 64), False),) * 2  # the crop is the image
SAME = (Warp(()),) * 2


def run_of(knobs=None, **changes):
    return stepper(train_spec("cpsl", knobs=SMALL | (knobs or {}), **changes))


def without(*terms):
    return dict.fromkeys(terms, 0.0)


def batch_of(run, index=0, **target):
    """A batch with all that the run needs; some of the target's views are replaced."""
    made = batch(index, needed(run.spec))
    return replace(made, target=replace(made.target, **target))


def uncropped(run, index=0, **target):
    """The same with crops that are whole images."""
    made = batch_of(run, index)
    return batch_of(run, index, full=made.target.image, geometry=WHOLE, **target)


def step_of(run, seed=0):
    return Step(90, 100, run.weights, torch.Generator().manual_seed(seed))


def terms_of(run, made, seed=0):
    """The unweighted terms, and what the step carries on. The method is as before, but for statistics and gradients."""
    found, losses = {}, run.method.losses(made, step_of(run, seed))
    while True:
        try:
            found |= next(losses)
        except StopIteration as stop:
            return found, stop.value


def reached(run, term):
    """Names of the parameters that the term has a gradient for."""
    run.method.zero_grad(set_to_none=True)
    term.backward()
    named = run.method.named_parameters()
    return {name for name, parameter in named if parameter.grad is not None and parameter.grad.any()}


def labels_of(run, made):
    method = run.method
    view = None if method.teacher is None else method._weak_view(method.teacher, made.target)
    return method._labels(made.target, view, step_of(run))


def filled(run):
    """The run with a queue that is full: of random rows of length 1."""
    rows = torch.randn(run.method.labelling.queue.ring.shape, generator=torch.Generator().manual_seed(1))
    run.method.labelling.queue.push(torch.nn.functional.normalize(rows, dim=1))
    return run


class TestWhomTheTermsReach:
    @pytest.mark.parametrize("target_loss", ["paper", "released"])
    def test_labels_teach_the_student(self, target_loss):
        run = run_of({"target_loss": target_loss})
        names = reached(run, terms_of(run, batch_of(run))[0]["target"])
        assert all(name.startswith("net.") for name in names) and any(name.startswith("net.head") for name in names)

    @pytest.mark.parametrize("consistency", ["paper", "released"])
    def test_consistency_teaches_the_student_and_as_released_not_its_classifier(self, consistency):
        run = run_of({"consistency": consistency})
        names = reached(run, terms_of(run, batch_of(run))[0]["reg"])
        assert names and all(name.startswith("net.") for name in names)
        assert any(name.startswith("net.head") for name in names) == (consistency == "paper")

    @pytest.mark.parametrize("logit_term", ["paper", "released"])
    def test_self_labelling_trains_the_prototypes_only(self, logit_term):
        run = filled(run_of({"logit_term": logit_term}))
        terms, drawn = terms_of(run, batch_of(run))
        assert terms["self_label"] > 0
        assert reached(run, terms["self_label"]) == {"labelling.prototypes"}
        assert not any(part.requires_grad for part in drawn if part is not None)

    def test_the_teacher_gets_no_gradient(self):
        run = run_of()
        steps(run, 0, 2)
        assert all(parameter.grad is None for parameter in run.method.teacher.parameters())

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_without_its_terms_it_is_source_only_bit_by_bit(self, optimizer):
        ours = run_of(optim={"name": optimizer}, weights=without(*TERMS))
        theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
        for run in (ours, theirs):
            steps(run, 0, 3)
        assert equal(tensors(ours.method), tensors(theirs.method))
        assert list(ours.optimizers) == list(theirs.optimizers)


class TestLabels:
    def test_by_hand(self):
        """argmax over classes of P_ST * softmax(cosine / tau), pixel by pixel."""
        run = run_of(network={"norm": "eval"})
        soft = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).softmax(1)
        made = uncropped(run, soft=soft)
        features = resize(run.method.teacher(made.target.full).features["embedding"], (16, 16))
        moving = run.method.labelling.teacher
        labels = labels_of(run, made)
        for image, row, column in ((0, 0, 0), (0, 7, 3), (1, 15, 15), (1, 4, 9)):
            feature = features[image, :, row, column]
            products = []
            for index in range(3):
                cosine = float(feature @ moving[index]) / float(feature.norm() * moving[index].norm())
                products.append(float(soft[image, index, row, column]) * math.exp(cosine / 0.08))
            assert int(labels[image, row, column]) == products.index(max(products))
        assert not torch.equal(labels, soft.argmax(1))

    def test_the_moving_prototypes_rectify_and_not_the_trained_ones(self):
        run = run_of()
        made = batch_of(run, soft=torch.full((2, 3, 16, 16), 1 / 3))
        before = labels_of(run, made)
        with torch.no_grad():
            run.method.labelling.prototypes.copy_(-run.method.labelling.prototypes)
        assert torch.equal(labels_of(run, made), before)
        run.method.labelling.teacher.neg_()
        assert not torch.equal(labels_of(run, made), before)

    def test_with_true_soft_labels_the_target_term_is_the_supervised_loss(self):
        """The upper bound: whatever the prototypes say, they cannot turn a certain label."""
        run = run_of()
        truth = torch.randint(len(CLASSES), (2, 16, 16), generator=torch.Generator().manual_seed(0))
        made = batch_of(run, soft=torch.nn.functional.one_hot(truth, len(CLASSES)).movedim(-1, 1).float())
        terms, _ = terms_of(run, made)
        logits = resize(run.method.net(made.target.image).logits, (16, 16))
        torch.testing.assert_close(terms["target"], cross_entropy(logits, truth))

    def test_without_rectification_they_are_fixed_and_the_whole_image_is_not_needed(self):
        run = run_of({"rectify": False}, weights=without("self_label", "reg"))
        assert needed(run.spec) == ["source", "target", "target.soft"]
        assert run.method.teacher is None and run.method.labelling is None
        made = batch_of(run)
        assert torch.equal(labels_of(run, made), made.target.soft.argmax(1))

    def test_without_self_labelling_the_warm_ups_prototypes_rectify(self):
        fixed, moving = run_of(weights=without("self_label")), run_of()
        assert isinstance(fixed.method.labelling, FixedPrototypes)
        assert list(fixed.optimizers) == ["network"]
        made = batch_of(moving)
        assert torch.equal(labels_of(fixed, made), labels_of(moving, made))
        before = tensors(fixed.method.labelling)
        assert list(before) == ["prototypes"]  # no queue, no prior
        steps(fixed, 0, 2)
        assert equal(before, tensors(fixed.method.labelling))

    def test_identical_prototypes_rectify_nothing(self):
        run = run_of()
        run.method.labelling.teacher.fill_(1.0)
        made = batch_of(run)
        assert torch.equal(labels_of(run, made), made.target.soft.argmax(1))

    def test_the_threshold_ignores(self):
        run = run_of({"threshold": 1.0})
        made = batch_of(run, soft=torch.full((2, 3, 16, 16), 1 / 3))
        assert (labels_of(run, made) == 255).all()


class TestCutMix:
    def certain(self, run):
        """Target labels that are all class 0 where the source's are all class 1."""
        soft = torch.zeros(2, 3, 16, 16)
        soft[:, 0] = 1
        made = batch_of(run, soft=soft)
        return replace(made, source=replace(made.source, label=torch.ones_like(made.source.label)))

    def test_half_of_the_weak_view_and_of_its_labels_is_the_sources(self):
        run = run_of({"cutmix": "released"})
        made = self.certain(run)
        image, labels = cpsl.pasted(made, torch.zeros(2, 16, 16, dtype=torch.int64), torch.Generator().manual_seed(0))
        pasted = (image == made.source.image).all(1)
        assert torch.equal(torch.where(pasted[:, None], made.source.image, made.target.image), image)
        assert pasted.float().mean() == pytest.approx(0.5, abs=0.02)
        assert torch.equal(pasted[0], pasted[1])  # one rectangle for the batch
        assert torch.equal(labels, pasted[:, ::4, ::4].long())

    def test_happens_by_chance_and_only_as_released(self):
        released, paper = run_of({"cutmix": "released"}), run_of()
        made = self.certain(paper)
        plain = terms_of(paper, made)[0]["target"]
        changed = [not torch.equal(terms_of(released, made, seed)[0]["target"], plain) for seed in range(12)]
        assert 2 <= sum(changed) <= 10
        assert all(torch.equal(terms_of(paper, made, seed)[0]["target"], plain) for seed in range(3))

    def test_nothing_but_the_target_term_sees_it(self, monkeypatch):
        run = run_of({"cutmix": "released", "samples": ALL})
        made = self.certain(run)
        found = []
        for chance in (0.0, 1.0):
            monkeypatch.setattr(cpsl, "PASTED", chance)
            found.append(terms_of(run, made))
        (plain, first), (mixed, second) = found
        assert not torch.equal(plain["target"], mixed["target"])
        assert torch.equal(plain["reg"], mixed["reg"]) and torch.equal(first.shares, second.shares)
        torch.testing.assert_close(plain["self_label"], mixed["self_label"])

    def test_crops_of_another_size_are_refused(self):
        run = run_of({"cutmix": "released"})
        made = batch_of(run)
        small = replace(made, source=replace(made.source, image=made.source.image[..., :32]))
        with pytest.raises(UserError, match="cutmix"):
            cpsl.pasted(small, torch.zeros(2, 16, 16, dtype=torch.int64), torch.Generator())


class TestConsistency:
    @pytest.mark.parametrize("consistency", ["paper", "released"])
    def test_a_teacher_that_is_the_student_agrees_on_the_same_view(self, consistency):
        run = run_of({"consistency": consistency}, network={"norm": "eval"})
        made = uncropped(run)
        image = made.target.image
        values = [
            float(terms_of(run, uncropped(run, strong=strong, warps=SAME))[0]["reg"].detach())
            for strong in (image, (1 - image))
        ]
        assert values[0] == pytest.approx(0, abs=1e-6) and values[1] > 1e-5

    def test_by_the_op(self):
        run = run_of(network={"norm": "eval"})
        made = uncropped(run, warps=(Warp((("flip", 0.0),)), Warp(())))
        weak = resize(run.method.teacher(made.target.image).logits, (16, 16)).softmax(1)
        weak[0] = weak[0].flip(-1)
        strong = resize(run.method.net(made.target.strong).logits, (16, 16))
        wanted = view_consistency(strong, weak, torch.ones(2, 16, 16, dtype=torch.bool))
        torch.testing.assert_close(terms_of(run, made)[0]["reg"], wanted)

    @pytest.mark.parametrize(
        ("consistency", "op"), [("paper", "view_consistency"), ("released", "prototype_consistency")]
    )
    def test_only_what_both_views_show_is_compared(self, consistency, op, monkeypatch):
        """Crops that reach 16 pixels over the upper and left edge; a square cut out of the strong views."""
        run = run_of({"consistency": consistency})
        made = batch_of(run)
        geometry = tuple(Geometry((48, 48), (-16, -16), (64, 64), flip) for flip in (False, True))
        hole = (32, 0, 64, 32)
        made = batch_of(run, geometry=geometry, warps=(Warp((), cutout=hole), Warp((("flip", 0.0),), cutout=hole)))
        masks = []
        monkeypatch.setattr(cpsl, op, lambda strong, weak, mask: masks.append(mask) or strong.sum() * 0)
        terms_of(run, made)
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[4:, 4:] = True  # mirrored in the second crop, and back in its strong view
        inside[:8, 8:] = False
        assert torch.equal(masks[0], torch.stack([inside, inside]))

    @pytest.mark.parametrize("consistency", ["paper", "released"])
    def test_a_strong_view_that_is_all_cut_out_teaches_nothing(self, consistency):
        run = run_of({"consistency": consistency})
        term = terms_of(run, batch_of(run, warps=(Warp((), cutout=(0, 0, 64, 64)),) * 2))[0]["reg"]
        assert float(term.detach()) == 0 and not reached(run, term)


class TestAfterTheStep:
    def test_nothing_is_remembered_before_it(self):
        run = run_of({"logit_term": "released"})
        before = tensors(run.method.labelling), tensors(run.method.teacher)
        terms_of(run, batch_of(run))
        assert equal(before[0], tensors(run.method.labelling)) and equal(before[1], tensors(run.method.teacher))

    def test_queue_prior_prototypes_and_teacher_follow(self):
        run = run_of({"ema": 0.9, "prior_keep": 0.6, "queue": 200}, network={"norm": "eval"})
        labelling, before = run.method.labelling, tensors(run.method)
        made = [batch_of(run, index) for index in (0, 1)]
        prior = before["labelling.prior"]
        for one in made:
            for labels in labels_of(run, one):
                shares = torch.stack([(labels == index).float().mean() for index in range(3)])
                prior = 0.6 * prior + 0.4 * shares
        run(0, made)
        torch.testing.assert_close(labelling.prior, prior)
        assert 4 <= int(labelling.queue.filled) <= 4 * 16
        rows = labelling.queue.rows()
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
        after = tensors(run.method)
        assert not torch.equal(after["labelling.prototypes"], before["labelling.prototypes"])
        pairs = {"labelling.teacher": "labelling.prototypes"} | {
            f"teacher.net.{name}": f"net.{name}" for name, _ in run.method.net.named_parameters()
        }
        for follower, leader in pairs.items():
            torch.testing.assert_close(after[follower], 0.9 * before[follower] + 0.1 * after[leader])

    def test_the_images_of_a_step_see_the_queue_of_before_it(self):
        """With every pixel drawn, so that chance does not matter."""
        knobs = {"samples": ALL, "queue": 8}
        together = filled(run_of(knobs, network={"norm": "eval"}))
        made = [batch_of(together, index) for index in (0, 1)]
        alone = [float(terms_of(together, one)[0]["self_label"].detach()) for one in made]
        values, _ = together(0, made)
        assert values["self_label"] == pytest.approx(sum(alone) / 2, rel=1e-5)

    def test_the_queue_is_used_once_it_is_full(self):
        run = run_of({"samples": ALL}, network={"norm": "eval"})
        made = batch_of(run)
        empty = terms_of(run, made)[0]["self_label"]
        run.method.labelling.queue.push(torch.eye(run.method.labelling.prototypes.shape[1])[:1].expand(63, -1))
        assert torch.equal(terms_of(run, made)[0]["self_label"], empty)
        run.method.labelling.queue.push(torch.eye(run.method.labelling.prototypes.shape[1])[:1])
        assert not torch.equal(terms_of(run, made)[0]["self_label"], empty)

    @pytest.mark.parametrize("teacher_mode", ["paper", "released"])
    def test_the_teachers_mode_and_statistics(self, teacher_mode):
        run = run_of({"teacher_mode": teacher_mode})
        run(0, [batch_of(run)])
        assert run.method.teacher.net.training == (teacher_mode == "released")
        for kept, new in zip(run.method.teacher.net.buffers(), run.method.net.buffers(), strict=True):
            assert torch.equal(kept, new)

    def test_a_fixed_prior_stays(self):
        run = run_of({"prior": "released"})
        before = run.method.labelling.prior.clone()
        steps(run, 0, 2)
        assert torch.equal(run.method.labelling.prior, before)

    def test_self_labelling_falls_on_repeated_images(self):
        optim, weights = {"lr": 3e-3, "schedule": "constant"}, without("target", "reg") | {"self_label": 1.0}
        run = run_of({"prior": "released"}, optim=optim, weights=weights, network={"norm": "eval"})
        given = [batch_of(run)]
        values = [run(index, given)[0]["self_label"] for index in range(20)]
        assert values[-1] < 0.8 * values[0]


class TestDegenerate:
    def test_empty_soft_labels_are_nothing_to_learn_from(self):
        run = run_of()
        before = run.method.labelling.prototypes.detach().clone()
        values, logs = run(0, [batch_of(run, soft=torch.zeros(2, 3, 16, 16))])
        assert values["target"] == 0 and values["self_label"] == 0 and values["reg"] > 0
        assert logs["labelled"] == 0 and logs["queue"] == 0
        torch.testing.assert_close(run.method.labelling.prototypes.detach(), before)
        assert all(tensor.isfinite().all() for tensor in run.method.labelling.state_dict().values())

    def with_unseen(self, **changes):
        """A run whose warm-up model never predicted class 1."""
        run = run_of(**changes)
        labelling = run.method.labelling
        with torch.no_grad():
            labelling.prototypes[1] = 0
            labelling.teacher[1] = 0
            labelling.prior.copy_(torch.tensor([0.7, 0.0, 0.3]))
        return run

    @pytest.mark.parametrize("consistency", ["paper", "released"])
    def test_a_class_without_a_prototype_keeps_its_pixels_and_gets_no_others(self, consistency):
        run = self.with_unseen(knobs={"consistency": consistency})
        soft = torch.tensor([0.5, 0.4, 0.1]).view(1, 3, 1, 1).repeat(2, 1, 16, 16)
        soft[..., :4] = torch.tensor([0.1, 0.8, 0.1]).view(1, 3, 1, 1)
        found = labels_of(run, batch_of(run, soft=soft))
        assert (found[..., :4] == 1).all() and not (found[..., 4:] == 1).any()
        values, _ = run(0, [batch_of(run, soft=soft)])
        assert all(math.isfinite(value) for value in values.values())
        assert float(run.method.labelling.teacher[1].norm()) == pytest.approx(1, abs=1e-5)

    def test_it_takes_part_once_the_labels_show_it(self):
        run = self.with_unseen(knobs={"rectify": False})
        run(0, [batch_of(run)])
        assert float(run.method.labelling.teacher[1].norm()) == pytest.approx(1, abs=1e-5)
        values, _ = run(1, [batch_of(run, 1)])
        assert all(math.isfinite(value) for value in values.values())

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_classes_of_the_share_0(self, share):
        run = run_of({"prior": "released"})
        run.method.labelling.prior.copy_(torch.tensor([share, 0.0, share]))
        values, _ = run(0, [batch_of(run)])
        assert math.isfinite(values["self_label"])

    def test_with_no_class_seen_the_soft_labels_decide(self):
        run = run_of()
        with torch.no_grad():
            run.method.labelling.prototypes.zero_()
            run.method.labelling.teacher.zero_()
        made = batch_of(run)
        assert torch.equal(labels_of(run, made), made.target.soft.argmax(1))
        values, _ = run(0, [made])
        assert values["self_label"] == 0

    def test_beyond_the_image_there_is_no_label_and_nothing_is_drawn(self):
        run = run_of({"sampler": "released", "samples": ALL})
        geometry = (Geometry((48, 48), (-16, -16), (64, 64), False),) * 2
        made = batch_of(run, geometry=geometry, soft=torch.full((2, 3, 16, 16), 1 / 3))
        labels = labels_of(run, made)
        assert (labels[:, :4] == 255).all() and (labels[:, :, :4] == 255).all()
        assert (labels[:, 4:, 4:] != 255).all()
        _, drawn = terms_of(run, made)
        assert len(drawn.rows) == 2 * 12 * 12


class TestKnobs:
    def test_the_released_target_loss_is_a_tenth_of_the_ordinary_and_the_reverse(self):
        paper, released = (
            run_of(network={"norm": "eval"}),
            run_of({"target_loss": "released"}, network={"norm": "eval"}),
        )
        made = batch_of(paper)
        logits = resize(paper.method.net(made.target.image).logits, (16, 16))
        labels = labels_of(paper, made)
        wrong = 1 - logits.softmax(1).gather(1, labels[:, None])
        wanted = 0.1 * terms_of(paper, made)[0]["target"] - math.log(1e-4) * wrong.mean()
        torch.testing.assert_close(terms_of(released, made)[0]["target"], wanted, rtol=1e-4, atol=1e-5)

    def test_samples_follow_the_labels_or_not(self):
        counts = {}
        for sampler in ("paper", "released"):
            run = run_of({"sampler": sampler, "samples": 40})
            made = batch_of(run)
            _, drawn = terms_of(run, made)
            counts[sampler] = [int((drawn.classes == index).sum()) for index in range(3)]
            shares = torch.stack([(labels_of(run, made) == index).flatten(1).float().mean(1) for index in range(3)])
        assert counts["paper"] == (40 * shares).floor().sum(1).int().tolist()
        assert sum(counts["released"]) == 80

    def test_the_logit_term_is_added_with_a_queue_of_its_own(self):
        paper, released = run_of(), run_of({"logit_term": "released"})
        made = batch_of(paper)
        assert terms_of(released, made)[0]["self_label"] > terms_of(paper, made)[0]["self_label"]
        names = [{name for name in tensors(run.method.labelling) if "queue" in name} for run in (paper, released)]
        assert names[0] < names[1]

    def test_scores_of_the_queue_differ_when_prototypes_are_not_of_length_1(self):
        values = {}
        for form in ("paper", "released"):
            run = filled(run_of({"queue_scores": form, "samples": ALL}))
            made = batch_of(run)
            values[form] = [terms_of(run, made)[0]["self_label"]]
            with torch.no_grad():
                run.method.labelling.prototypes.mul_(3)
            values[form].append(terms_of(run, made)[0]["self_label"])
        torch.testing.assert_close(*values["paper"])
        torch.testing.assert_close(values["paper"][0], values["released"][0])
        assert not torch.allclose(*values["released"])

    def test_prototypes_learn_at_the_rate_of_the_heads(self):
        run = run_of(optim={"lr": 1e-3, "head_lr_factor": 5.0})
        (group,) = run.optimizers["prototypes"].param_groups
        assert group["lr"] == pytest.approx(5e-3) and len(group["params"]) == 1

    def test_artifacts_are_asked_for_only_where_they_are_used(self):
        def consumed(*terms, **knobs):
            return set(SPEC.consumes(Config(**knobs), dict.fromkeys(("seg", *terms), 1.0)))

        assert consumed(*TERMS) == consumed("self_label", rectify=False) == {"prototypes", "prior"}
        assert consumed("target") == consumed("reg", consistency="released") == {"prototypes"}
        assert consumed("target", "reg", rectify=False) == consumed("reg") == consumed() == set()

    def test_views_follow_the_terms(self):
        def views(*terms, **knobs):
            return SPEC.streams(Config(**knobs), dict.fromkeys(("seg", *terms), 1.0))

        assert views() == ["source"]
        assert views("target", rectify=False) == ["source", "target", "target.soft"]
        assert views("self_label") == views("target") == ["source", "target", "target.full", "target.soft"]
        assert views("reg") == ["source", "target", "target.full", "target.strong"]

    @pytest.mark.parametrize("artifacts", [{}, {"prototypes": torch.zeros(3, 7), "prior": torch.ones(3) / 3}])
    def test_prototypes_of_another_network_are_refused(self, artifacts):
        spec = train_spec("cpsl")
        context = Context(Config(), SPEC.weights, CLASSES, spec.network, 0, artifacts=artifacts)
        with pytest.raises(UserError, match="prototypes"):
            CPSL(context)

    @pytest.mark.parametrize("released", [{}, {"consistency": "released", "logit_term": "released"}])
    def test_half_precision_is_finite_and_keeps_what_is_remembered_in_full(self, released):
        run = run_of(released, train={"precision": "bf16"})
        values, _ = run(0, [batch_of(run)])
        assert set(values) == {"seg", *TERMS} and all(map(math.isfinite, values.values()))
        assert {t.dtype for t in run.method.labelling.state_dict().values()} == {torch.float32, torch.int64}
