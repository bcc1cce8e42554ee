"""DACS where no golden looks: its limits, whom its gradients reach, and batches that are not as they should be."""

from dataclasses import replace

import pytest
import torch
from support.tiny import CLASSES, batch, equal, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.errors import UserError
from udaseg.methods.base import Step
from udaseg.methods.self_training import dacs
from udaseg.methods.self_training.dacs import Config
from udaseg.nets.base import Outputs
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops.pseudo_labels import WeightedLabels

ALL = {"masked": 1.0}  # with what is on by default
PLAIN = {"jitter": 0.0, "blur": 0.0}


def run_of(weights=ALL, knobs=None, **changes):
    return stepper(train_spec("dacs", weights=weights, knobs=knobs or {}, **changes))


def step_of(run, index=90):
    torch.manual_seed(0)
    return Step(index, 100, run.weights, torch.Generator().manual_seed(0))


def groups(run, given=None, step=None):
    return run.method.losses(given or batch(0), step or step_of(run))


def terms_of(run, given=None, step=None):
    return {name: term for group in groups(run, given, step) for name, term in group.items()}


def labelled(given, label):
    return Batch(Labelled(given.source.image, label), given.target)


class Certain:
    """In a teacher's place: sure, for every pixel, of the label that it was given."""

    def __init__(self, label, margin=50.0):
        self.logits = margin * torch.nn.functional.one_hot(label, len(CLASSES)).movedim(-1, 1).float()

    def __call__(self, images):
        return Outputs(self.logits, None, {})


def test_without_its_terms_it_is_source_only_bit_by_bit_and_has_no_teacher():
    ours, theirs = run_of(weights={"mix": 0.0}), stepper(train_spec("source_only"))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method), tensors(theirs.method))


@pytest.mark.parametrize("term", ["mix", "masked"])
def test_each_term_reaches_the_student_and_not_the_teacher(term):
    run = run_of(knobs={"threshold": 0.0})
    terms_of(run)[term].backward()
    assert all(parameter.grad.any() for parameter in run.method.net.parameters())
    assert all(parameter.grad is None for parameter in run.method.teacher.parameters())


def test_terms_come_one_by_one_on_the_same_pseudo_labels():
    run = run_of()
    step = step_of(run)
    assert [list(group) for group in groups(run, step=step)] == [["seg"], ["mix"], ["masked"]]
    assert len(step.logs["confident"]) == 1


def test_the_teacher_follows_the_student_from_its_next_step_on():
    run = run_of()
    before = tensors(run.method.teacher.net)
    run(0, [batch(0)])
    student = tensors(run.method.net)
    for name, parameter in run.method.teacher.net.named_parameters():
        torch.testing.assert_close(parameter, 0.5 * before[name] + 0.5 * student[name])


def test_the_teacher_keeps_no_more_than_asked():
    run = run_of(knobs={"ema": 0.2})
    before = tensors(run.method.teacher.net)
    run(90, [batch(0)])
    student = tensors(run.method.net)
    for name, parameter in run.method.teacher.net.named_parameters():
        torch.testing.assert_close(parameter, 0.2 * before[name] + 0.8 * student[name])


def test_statistics_of_the_teacher_are_its_own():
    run = run_of()
    run(0, [batch(0)])
    student, teacher = tensors(run.method.net), tensors(run.method.teacher.net)
    name = "backbone.stem.1.num_batches_tracked"
    assert (student[name], teacher[name]) == (3, 1)  # source, mixed and masked images; target images


def test_the_student_is_the_predictor():
    run = run_of()
    assert run.method.predictor() is run.method.net


class TestPseudoLabels:
    def found(self, target, teacher, **knobs):
        step = Step(0, 100, {}, torch.Generator())
        return dacs.pseudo_labels(teacher(target.image).logits, target, Config(**knobs), step), step

    def test_are_the_teachers_with_its_confident_share(self):
        label = torch.randint(0, 3, (2, 8, 8))
        given, step = self.found(Target(image=torch.rand(2, 3, 8, 8)), Certain(label))
        assert torch.equal(given.labels, label) and (given.weight == 1).all()
        assert [float(value) for value in step.logs["confident"]] == [1.0]

    def test_rows_are_cut_and_what_lies_beyond_the_image_has_none(self):
        label = torch.zeros(2, 8, 8, dtype=torch.int64)
        valid = torch.ones(2, 8, 8, dtype=torch.bool)
        valid[:, :, 6:] = False
        given, _ = self.found(
            Target(image=torch.rand(2, 3, 8, 8), valid=valid), Certain(label), ignore_top=1, ignore_bottom=2
        )
        assert (given.labels[~valid] == 255).all() and given.quality == 1
        expected = torch.zeros(2, 8, 8)
        expected[:, 1:6, :6] = 1
        assert torch.equal(given.weight, expected)

    def test_logits_are_resized_to_the_image(self):
        label = torch.ones(1, 2, 2, dtype=torch.int64)
        given, _ = self.found(Target(image=torch.rand(1, 3, 8, 8)), Certain(label))
        assert given.labels.shape == given.weight.shape == (1, 8, 8)


class TestMixedBatch:
    def mixed(self, given, knobs=PLAIN, weight=0.25):
        pseudo = WeightedLabels(
            torch.full_like(given.source.label, 2), torch.full((2, 64, 64), weight), torch.tensor(0)
        )
        return dacs.mixed_batch(given, pseudo, Config(**knobs), Step(0, 100, {}, torch.Generator().manual_seed(0)))

    def test_pasted_pixels_are_the_sources_with_weight_one(self):
        given = batch(0)
        mixed = self.mixed(given)
        pasted = (mixed.image == given.source.image).all(dim=1)
        assert pasted.any() and not pasted.all()
        assert torch.equal(mixed.labels, torch.where(pasted, given.source.label, 2))
        assert torch.equal(mixed.weight, torch.where(pasted, 1.0, 0.25))
        assert torch.equal(mixed.image, torch.where(pasted[:, None], given.source.image, given.target.image))

    def test_pasted_classes_are_pasted_whole(self):
        given = batch(0)
        pasted = (self.mixed(given).image == given.source.image).all(dim=1)
        for label, mask in zip(given.source.label, pasted, strict=True):
            for name in label.unique():
                assert mask[label == name].all() or not mask[label == name].any()

    def test_augmentation_changes_the_picture_only(self):
        given = batch(0)
        plain, strong = self.mixed(given), self.mixed(given, knobs={"jitter": 0.5, "blur": 1.0})
        assert torch.equal(plain.labels, strong.labels) and torch.equal(plain.weight, strong.weight)
        assert not torch.equal(plain.image, strong.image)

    def test_all_source_labels_ignored_pastes_all_of_it_without_a_loss(self):
        given = batch(0)
        mixed = self.mixed(labelled(given, torch.full((2, 64, 64), 255)))
        assert torch.equal(mixed.image, given.source.image) and (mixed.labels == 255).all()

    def test_one_class_pastes_the_whole_source(self):
        given = batch(0)
        mixed = self.mixed(labelled(given, torch.ones(2, 64, 64, dtype=torch.int64)))
        assert torch.equal(mixed.image, given.source.image) and (mixed.labels == 1).all() and (mixed.weight == 1).all()

    @pytest.mark.parametrize("size", [48, 0])
    def test_crops_of_different_sizes_are_refused(self, size):
        given = batch(0)
        target = replace(given.target, image=given.target.image[..., :size])
        with pytest.raises(UserError, match=r"2 of 64 x 64 and (2 of 64 x 48|none)"):
            self.mixed(Batch(given.source, target))


class TestMaskedImages:
    def masked(self, **knobs):
        run = run_of()
        return run.method.net, dacs.masked_images(run.method.net, batch(0).target.image, Config(**knobs), step_of(run))

    def test_blocks_are_what_normalisation_makes_zero(self):
        net, masked = self.masked(mask_block=16, mask_ratio=0.5, **PLAIN)
        cells = (net.normalise(masked) == 0).all(dim=1)[:, ::16, ::16]
        assert cells.any() and not cells.all()
        kept = ~cells.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
        assert torch.equal(masked * kept, batch(0).target.image * kept)

    def test_everything_masked(self):
        net, masked = self.masked(mask_ratio=1.0)
        assert not net.normalise(masked).any()

    def test_what_is_not_masked_is_augmented(self):
        _, masked = self.masked(mask_ratio=0.0, jitter=0.5, blur=1.0)
        assert not torch.equal(masked, batch(0).target.image)


class TestDegenerate:
    def test_all_source_labels_ignored(self):
        given = batch(0)
        terms = terms_of(run_of(), labelled(given, torch.full((2, 64, 64), 255)))
        assert terms["seg"] == 0 and terms["mix"] == 0 and terms["masked"].isfinite()

    def test_nothing_confident_leaves_the_pasted_pixels(self):
        run = run_of(knobs={"threshold": 1.0})
        step = step_of(run)
        terms = terms_of(run, step=step)
        assert float(step.logs["confident"][0]) == 0
        assert terms["masked"] == 0 and terms["mix"] > 0

    def test_more_rows_cut_than_the_crop_has(self):
        terms = terms_of(run_of(knobs={"ignore_bottom": 100, "threshold": 0.0}))
        assert terms["masked"] == 0 and terms["mix"] > 0

    def test_target_crops_beyond_their_images(self):
        given = batch(0)
        target = replace(given.target, valid=torch.zeros(2, 64, 64, dtype=torch.bool))
        terms = terms_of(run_of(knobs={"threshold": 0.0}), Batch(given.source, target))
        assert terms["masked"] == 0 and terms["mix"].isfinite()

    @pytest.mark.parametrize("mix_classes", ["image", "batch"])
    def test_a_batch_of_one(self, mix_classes):
        given = batch(0)
        one = Batch(
            Labelled(given.source.image[:1], given.source.label[:1]),
            Target(image=given.target.image[:1], valid=given.target.valid[:1]),
        )
        terms = terms_of(run_of(knobs={"mix_classes": mix_classes}), one)
        assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize(("mean", "share"), [("valid", 1.0), ("all", 0.5)])
def test_pixels_that_the_source_loss_is_a_mean_over(mean, share):
    given = batch(0)
    half = given.source.label.clone()
    half[:, :32] = 255
    logits = torch.zeros(2, 3, 64, 64)  # ln 3 at every labelled pixel
    loss = dacs.source_loss(logits, Labelled(given.source.image, half), Config(source_mean=mean))
    assert float(loss) == pytest.approx(share * torch.log(torch.tensor(3.0)).item())


@pytest.mark.parametrize("term", ["mix", "masked"])
def test_with_a_perfect_certain_teacher_the_term_trains_the_student_on_the_target(term):
    """The upper bound: what self-training gives when its labels are right. Ground truth is in this test only."""
    colours = torch.tensor([[0.9, 0.6, 0.4], [0.4, 0.6, 0.1], [0.3, 0.5, 0.9]])
    given = batch(0)
    truth = (given.target.image[:, None] - colours.view(1, 3, 3, 1, 1)).square().sum(dim=2).argmin(dim=1)
    run = run_of(knobs=PLAIN | {"mask_ratio": 0.0})
    method, optimizer = run.method, torch.optim.AdamW(run.method.net.parameters(), 3e-3)
    del method.teacher
    method.teacher = Certain(truth)
    for index in range(40):
        step = Step(index, 100, {term: 1.0}, torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        _, group = method.losses(given, step)
        group[term].backward()
        optimizer.step()
    predicted = dacs.resize(method.net(given.target.image).logits, (64, 64)).argmax(dim=1)
    assert float((predicted == truth).float().mean()) > 0.85


def test_at_rate_zero_the_student_stays_and_so_does_its_teacher():
    run = run_of(optim={"lr": 1e-30})
    before = {name: parameter.clone() for name, parameter in run.method.named_parameters()}
    steps(run, 0, 2)
    for name, parameter in run.method.named_parameters():
        torch.testing.assert_close(parameter, before[name])


def test_the_teacher_is_in_the_state():
    assert isinstance(run_of().method.teacher, EmaTeacher)
    assert any(name.startswith("teacher.net.head") for name in run_of().method.state_dict())


def test_the_teacher_normalises_with_its_batch_or_with_the_students_statistics():
    for norm, shared in (("batch", False), ("student", True)):
        run = stepper(train_spec("dacs", knobs={"teacher_norm": norm}))
        steps(run, 0, 2)
        student, teacher = dict(run.method.net.named_buffers()), dict(run.method.teacher.net.named_buffers())
        moved = [name for name in teacher if name.endswith("running_mean")]
        assert moved and all(torch.equal(student[name], teacher[name]) == shared for name in moved)
        assert all(
            module.training != shared
            for module in run.method.teacher.net.modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        )
