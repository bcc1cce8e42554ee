import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from udaseg.nets.prototype_assignment import FeatureQueue, PrototypeAssignment
from udaseg.ops.class_balance import class_shares
from udaseg.ops.prototype_assignment import balanced_assignment, row_scores, self_label_loss

CLASSES, WIDTH, SIDE = 3, 5, 6


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(images=2, seed=0):
    return torch.randint(0, CLASSES, (images, SIDE, SIDE), generator=generator(seed))


def features_of(images=2, seed=0):
    return random(images, WIDTH, SIDE, SIDE, seed=seed)


def labelling_of(prototypes=None, prior=(0.5, 0.3, 0.2), **changes):
    settings = {
        "queue_size": 20, "samples": 9, "temperature": 0.08, "epsilon": 0.05, "rounds": 3, "sampler": "paper",
        "prior_rule": "paper", "prior_keep": 0.9, "queue_scores": "paper",
    }  # fmt: skip
    prototypes = random(CLASSES, WIDTH, seed=1) if prototypes is None else prototypes
    return PrototypeAssignment(prototypes, torch.tensor(prior), **(settings | changes))


def without(index):
    """Prototypes in which one class was not seen."""
    prototypes = random(CLASSES, WIDTH, seed=1)
    prototypes[index] = 0
    return prototypes


class TestQueue:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 7), st.lists(st.integers(0, 11), max_size=6))
    def test_it_holds_what_a_concatenation_would(self, size, pushes):
        queue, expected = FeatureQueue(size, 2), torch.zeros(0, 2)
        for seed, count in enumerate(pushes):
            rows = random(count, 2, seed=seed)
            queue.push(rows)
            expected = torch.cat([rows, expected])[:size]
            assert torch.equal(queue.rows(), expected)
            assert queue.full == (len(expected) == size)
        if queue.full:
            assert sorted(queue.ring.tolist()) == sorted(expected.tolist())

    def test_it_is_written_in_place(self):
        queue = FeatureQueue(6, 2)
        where = queue.ring.data_ptr()
        for seed in range(5):
            before = queue.ring.clone()
            queue.push(random(2, 2, seed=seed))
            assert int((queue.ring != before).any(dim=1).sum()) == 2
        assert queue.ring.data_ptr() == where

    def test_its_state_is_whole(self):
        queue, other = FeatureQueue(6, 2), FeatureQueue(6, 2)
        queue.push(random(4, 2))
        other.load_state_dict(queue.state_dict())
        for each in (queue, other):
            each.push(random(3, 2, seed=1))
        assert torch.equal(queue.rows(), other.rows())
        assert other.full

    @pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
    def test_nothing_is_no_queue(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            FeatureQueue(*sizes)


class TestLoss:
    @pytest.mark.parametrize("queue_scores", ["paper", "released"])
    @pytest.mark.parametrize("filled", [19, 20])
    def test_values_are_those_of_one_image_after_the_other(self, queue_scores, filled):
        labelling = labelling_of(queue_scores=queue_scores)
        with torch.no_grad():
            labelling.prototypes.mul_(1.5)
        queued = normalize(random(filled, WIDTH, seed=3), dim=1)
        labelling.queue.push(queued)
        loss, drawn = labelling(features_of(), labels_of(), generator())
        sizes = [int(count) for count in (9 * class_shares(labels_of(), CLASSES) + 1e-4).floor().sum(dim=1)]
        earlier = row_scores(queued, labelling.prototypes, queue_scores == "paper") if filled == 20 else None
        expected = 0.0
        for rows in drawn.rows.split(sizes):
            scores = row_scores(rows, labelling.prototypes)
            assignment = balanced_assignment(scores, labelling.prior, 0.05, 3, earlier)
            expected += float(self_label_loss(scores.detach(), assignment, 0.08)) / 2
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("sampler", ["paper", "released"])
    def test_what_was_drawn(self, sampler):
        features, labels = features_of(), labels_of()
        _, drawn = labelling_of(sampler=sampler)(features, labels, generator())
        pixels = normalize(features.movedim(1, -1).flatten(0, 2), dim=1)
        for row, label in zip(drawn.rows, drawn.classes, strict=True):
            same = (pixels - row).abs().amax(dim=1) < 1e-6
            assert labels.flatten()[same].tolist() == [int(label)]
        if sampler == "released":
            assert len(drawn.rows) == 18
        else:
            counts = (9 * class_shares(labels, CLASSES) + 1e-4).floor().sum(dim=0)
            assert drawn.classes.bincount(minlength=CLASSES).tolist() == counts.tolist()
        assert torch.equal(drawn.shares, class_shares(labels, CLASSES))

    def test_it_trains_the_prototypes_and_nothing_else(self):
        labelling, features = labelling_of(), features_of().requires_grad_()
        loss, drawn = labelling(features, labels_of(), generator())
        loss.backward()
        assert [name for name, _ in labelling.named_parameters()] == ["prototypes"]
        assert labelling.prototypes.grad.any(dim=1).all()
        assert features.grad is None
        assert not any(part.requires_grad for part in drawn if part is not None)

    def test_it_is_a_function_of_the_generator(self):
        losses = [labelling_of()(features_of(), labels_of(), generator(seed))[0] for seed in (0, 0, 1)]
        assert losses[0] == losses[1] != losses[2]

    @pytest.mark.parametrize("sampler", ["paper", "released"])
    @pytest.mark.parametrize("logit_term", [False, True])
    def test_without_a_labelled_pixel_it_is_zero_and_connected(self, sampler, logit_term):
        labelling = labelling_of(sampler=sampler, logit_term=logit_term)
        loss, drawn = labelling(
            features_of(), torch.full((2, SIDE, SIDE), 255), generator(), random(2, CLASSES, SIDE, SIDE)
        )
        loss.backward()
        assert loss == 0
        assert not labelling.prototypes.grad.any()
        assert len(drawn.rows) == 0
        labelling.update(drawn)
        assert not int(labelling.queue.filled)

    def test_an_image_without_labels_counts_as_zero(self):
        labels = labels_of()
        labels[1] = 255
        both, _ = labelling_of()(features_of(), labels, generator())
        assert both > 0
        assert both.isfinite()

    @pytest.mark.parametrize("prior", [(0.0, 0.6, 0.4), (0.0, 0.0, 0.0)])
    @pytest.mark.parametrize("present", [(0, 1), (2,)])
    def test_an_absent_class_and_a_prior_of_zero_are_no_trouble(self, prior, present):
        labelling = labelling_of(prior=prior)
        labels = torch.tensor(present)[labels_of() % len(present)]
        for seed in range(4):
            loss, drawn = labelling(features_of(seed=seed), labels, generator(seed))
            loss.backward()
            assert loss.isfinite()
            assert labelling.prototypes.grad.isfinite().all()
            labelling.update(drawn)
        assert labelling.queue.full

    def test_the_logits_teach_the_same_scores(self):
        labelling, logits = labelling_of(logit_term=True), random(2, CLASSES, SIDE, SIDE, seed=4)
        plain, _ = labelling_of()(features_of(), labels_of(), generator())
        both, drawn = labelling(features_of(), labels_of(), generator(), logits)
        pixels = normalize(logits.movedim(1, -1).flatten(0, 2), dim=1)
        assert all(((pixels - row).abs().amax(dim=1) < 1e-6).any() for row in drawn.logits)
        expected = 0.0
        counts = (9 * class_shares(labels_of(), CLASSES) + 1e-4).floor().sum(dim=1).int().tolist()
        for rows, own in zip(drawn.rows.split(counts), drawn.logits.split(counts), strict=True):
            assignment = balanced_assignment(own, labelling.prior, 0.05, 3)
            expected += float(self_label_loss(row_scores(rows, labelling.prototypes.detach()), assignment, 0.08)) / 2
        assert float((both - plain).detach()) == pytest.approx(expected, rel=1e-4)
        for _ in range(3):
            labelling.update(drawn)
        assert labelling.logit_queue.full
        assert labelling(features_of(), labels_of(), generator(), logits)[0].isfinite()

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="expected"):
            labelling_of()(features_of(), labels_of()[:1], generator())
        with pytest.raises(ValueError, match="logits"):
            labelling_of(logit_term=True)(features_of(), labels_of(), generator())


class TestState:
    def test_prototypes_start_with_the_length_one(self):
        labelling = labelling_of(7 * random(CLASSES, WIDTH))
        torch.testing.assert_close(labelling.prototypes.detach().norm(dim=1), torch.ones(CLASSES))
        assert torch.equal(labelling.teacher, labelling.prototypes)

    def test_everything_that_changes_is_in_the_state(self):
        labelling, other = labelling_of(logit_term=True), labelling_of(random(CLASSES, WIDTH, seed=9), logit_term=True)

        def step(module, seed):
            logits = random(2, CLASSES, SIDE, SIDE, seed=seed)
            loss, drawn = module(features_of(seed=seed), labels_of(seed=seed), generator(seed), logits)
            loss.backward()
            with torch.no_grad():
                module.prototypes.sub_(0.1 * module.prototypes.grad)
            module.prototypes.grad = None
            module.update(drawn)
            module.follow(0.9)
            return loss

        for seed in range(3):
            step(labelling, seed)
        other.load_state_dict(labelling.state_dict())
        for seed in range(3, 6):
            assert step(labelling, seed) == step(other, seed)
        assert all(torch.equal(one, two) for one, two in zip(labelling.buffers(), other.buffers(), strict=True))

    @pytest.mark.parametrize(("prior_rule", "moves"), [("paper", True), ("released", False)])
    def test_the_prior_moves_image_by_image_or_stays(self, prior_rule, moves):
        labelling = labelling_of(prior_rule=prior_rule)
        _, drawn = labelling(features_of(), labels_of(), generator())
        labelling.update(drawn)
        expected = torch.tensor([0.5, 0.3, 0.2])
        for shares in class_shares(labels_of(), CLASSES) if moves else ():
            expected = 0.9 * expected + 0.1 * shares
        torch.testing.assert_close(labelling.prior, expected)

    def test_the_teachers_prototypes_follow(self):
        labelling = labelling_of()
        before = labelling.teacher.clone()
        with torch.no_grad():
            labelling.prototypes.add_(1)
        labelling.follow(0.75)
        torch.testing.assert_close(labelling.teacher, before + 0.25)

    @pytest.mark.parametrize(
        ("prototypes", "prior", "changes"),
        [
            ((3, 5), (2,), {}), ((5,), (5,), {}), ((3, 5), (3,), {"sampler": "other"}),
            ((3, 5), (3,), {"queue_size": 0}),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, prototypes, prior, changes):
        with pytest.raises(ValueError, match="expected"):
            labelling_of(torch.ones(prototypes), [0.1] * prior[0], **changes)


class TestUnseen:
    def test_a_class_that_was_not_seen_has_no_part(self):
        labelling, features = labelling_of(without(1)), features_of().requires_grad_()
        logits = labelling.logits(features)
        weights = logits.softmax(dim=1)
        weights[:, 0].sum().backward()
        assert logits.isfinite().all()
        assert not weights[:, 1].any()
        assert features.grad.isfinite().all()
        labels = labels_of().masked_fill(labels_of() == 1, 255)
        loss, drawn = labelling(features, labels, generator())
        loss.backward()
        assert loss.isfinite()
        assert not labelling.prototypes.grad[1].any()
        labelling.update(drawn)
        labelling.follow(0.5)
        assert not labelling.prototypes[1].any()
        assert not labelling.teacher[1].any()

    def test_the_mean_of_its_first_pixels_becomes_its_prototype(self):
        labelling = labelling_of(without(1))
        others = labelling.prototypes.detach()[[0, 2]].clone()
        _, drawn = labelling(features_of(), labels_of(), generator())
        labelling.update(drawn)
        expected = normalize(drawn.rows[drawn.classes == 1].mean(dim=0), dim=0)
        for prototypes in (labelling.prototypes.detach(), labelling.teacher):
            torch.testing.assert_close(prototypes[1], expected)
            assert torch.equal(prototypes[[0, 2]], others)
        _, drawn = labelling(features_of(seed=1), labels_of(seed=1), generator(1))
        labelling.update(drawn)
        torch.testing.assert_close(labelling.teacher[1], expected)

    def test_with_no_class_seen_nothing_is_learnt_and_all_are_alike(self):
        labelling = labelling_of(torch.zeros(CLASSES, WIDTH))
        assert not labelling.logits(features_of()).any()
        loss, drawn = labelling(features_of(), labels_of(), generator())
        loss.backward()
        assert loss == 0
        assert not labelling.prototypes.grad.any()
        labelling.update(drawn)
        assert labelling.prototypes.any(dim=1).all()
        assert labelling(features_of(), labels_of(), generator())[0] > 0


def test_under_autocast_it_is_as_exact():
    losses = []
    for enabled in (False, True):
        labelling = labelling_of()
        labelling.queue.push(normalize(random(20, WIDTH, seed=3), dim=1))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(labelling(features_of(), labels_of(), generator())[0])
    assert losses[0] == losses[1]
    assert math.isfinite(float(losses[0].detach()))
