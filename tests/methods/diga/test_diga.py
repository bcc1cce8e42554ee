"""DiGA's two stages where no golden looks: what is mixed, its toggles and degenerate cases, what moves when."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.tiny import CLASSES, batch, equal, needed, stepper, steps, tensors, train_spec
from torch import nn

from udaseg.data.batches.streams import Batch
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Context, Step
from udaseg.methods.diga.diga import DiGA
from udaseg.methods.diga.warmup import Config, DiGAWarmup
from udaseg.nets.base import Outputs
from udaseg.nets.teacher import EmaTeacher
from udaseg.nets.translator import Generator
from udaseg.ops.prototypes import confirmed_means, momentum_update

LATE = 90
STILL = {"norm": "eval"}  # BatchNorm that does not care what else is in the batch
PAPER = {"translator": "lab"}  # the published translator needs a run of its own
CLEAR = PAPER | {"blend": 0.0}  # nothing is augmented
BLACK = 0.0


def run_of(method: str, knobs: dict[str, Any] | None = None, **changes: Any) -> Any:
    return stepper(train_spec(method, knobs=PAPER | (knobs or {}), **changes))


def step_of(run: Any, index: int = LATE, seed: int = 0) -> Step:
    torch.manual_seed(seed)
    return Step(index, 100, run.weights, torch.Generator().manual_seed(seed))


def batch_of(run: Any, index: int = 0, label: torch.Tensor | None = None, **target: Any) -> Batch:
    """A batch with all that the run needs; the source's labels and some of the target's views may be replaced."""
    made = batch(index, needed(run.spec))
    if label is not None:
        made = replace(made, source=replace(made.source, label=label))
    return replace(made, target=replace(made.target, **target))


def outcome(run: Any, made: Batch | None = None, step: Step | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """The terms of a step, unweighted, and what it carries on; nothing is propagated back."""
    found, losses = {}, run.method.losses(made or batch_of(run), step or step_of(run))
    while True:
        try:
            found |= next(losses)
        except StopIteration as stop:
            return found, stop.value


class Painter(nn.Module):
    """In a translator's place: everything is of one colour in the target's look."""

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.full_like(source, BLACK)


class Said(nn.Module):
    """In a teacher's place: its features and its predictions are the classes that it is given, as one-hot vectors."""

    def __init__(self, features: torch.Tensor, predicted: torch.Tensor, channels: int = len(CLASSES)) -> None:
        super().__init__()
        self.features, self.predicted, self.channels = features, predicted, channels

    def forward(self, images: torch.Tensor) -> Outputs:
        maps = (F.one_hot(one, self.channels).movedim(-1, 1).float() for one in (self.predicted, self.features))
        logits, embedding = maps
        return Outputs(logits[:, : len(CLASSES)], None, {"embedding": embedding})

    def update(self, student: nn.Module, keep: float) -> None:
        """It stays as it is."""


def one_label(labels: list[int], size: int = 64) -> torch.Tensor:
    """Label maps of one class each."""
    return torch.tensor(labels).view(-1, 1, 1).expand(-1, size, size).clone()


# -------------------------------------------------------------------------------------------------- both stages alike


@pytest.mark.parametrize("method", ["diga_warmup", "diga"])
class TestBothStages:
    def test_with_seg_alone_it_is_source_only_with_the_mean_over_all_pixels_bit_by_bit(self, method):
        off = {term: 0.0 for term in METHODS[method].SPEC.weights if term != "seg"}
        ours = run_of(method, {"crdomix": False}, weights=off)
        theirs = stepper(train_spec("dacs", knobs={"source_mean": "all"}, weights={"mix": 0.0}))
        for run in (ours, theirs):
            for index in range(3):
                run(
                    index,
                    [
                        batch_of(
                            run, index, label=batch(index).source.label.masked_fill(batch(9).source.label == 1, 255)
                        )
                    ],
                )
        assert equal(tensors(ours.method.net), tensors(theirs.method.net))
        assert ours.method.teacher is None and ours.method.translator is None

    def test_each_term_reaches_the_student_and_nothing_else(self, method):
        run = run_of(method)
        for name in run.weights:
            run.method.zero_grad(set_to_none=True)
            outcome(run)[0][name].backward()
            assert all(parameter.grad.any() for parameter in run.method.net.parameters())
            assert all(parameter.grad is None for parameter in run.method.teacher.parameters())

    def test_the_teacher_follows_the_student_from_its_next_step_on(self, method):
        run = run_of(method)
        before = tensors(run.method.teacher.net)
        run(0, [batch_of(run)])
        student = tensors(run.method.net)
        for name, parameter in run.method.teacher.net.named_parameters():
            torch.testing.assert_close(parameter, 0.5 * before[name] + 0.5 * student[name])

    def test_the_teacher_keeps_no_more_than_asked_and_is_in_training_mode_with_statistics_of_its_own(self, method):
        run = run_of(method, {"ema": 0.2})
        before = tensors(run.method.teacher.net)
        run(LATE, [batch_of(run)])
        student = tensors(run.method.net)
        for name, parameter in run.method.teacher.net.named_parameters():
            torch.testing.assert_close(parameter, 0.2 * before[name] + 0.8 * student[name])
        run(LATE, [batch_of(run)])
        student, teacher = (net.backbone.stem[1] for net in (run.method.net, run.method.teacher.net))
        assert run.method.teacher.mode == "train" and teacher.training
        assert not torch.equal(student.running_mean, teacher.running_mean)

    def test_clean_and_mixed_views_pass_together(self, method):
        run = run_of(method)
        run(0, [batch_of(run)])
        seen = {"diga_warmup": 1, "diga": 2}[method]  # the mixed target images pass alone
        for net in (run.method.net, run.method.teacher.net):
            assert net.backbone.stem[1].num_batches_tracked == seen

    def test_seg_is_of_the_clean_view_and_its_mean_counts_pixels_without_a_label(self, method):
        run = run_of(method, network=STILL)
        label = batch(0).source.label.masked_fill(batch(9).source.label == 1, 255)
        made = batch_of(run, label=label)
        seg = outcome(run, made)[0]["seg"]
        logits = F.interpolate(run.method.net(made.source.image).logits, (64, 64), mode="bilinear", align_corners=True)
        expected = F.cross_entropy(logits, label, ignore_index=255, reduction="sum") / label.numel()
        torch.testing.assert_close(seg, expected)

    def test_distil_by_hand(self, method):
        for symmetry, damping in (("paper", 1.0), ("released", 0.25)):
            run = run_of(method, {"symmetry": symmetry, "damping": 0.25}, network=STILL)
            made = batch_of(run)
            distil = outcome(run, made)[0]["distil"]
            mixed = run.method.mixed_view(made, step_of(run))
            clean, other = (
                F.interpolate(run.method.net(view).logits, (64, 64), mode="bilinear", align_corners=True)
                for view in (made.source.image, mixed)
            )  # the teacher equals the student in the first step
            expected = F.cross_entropy(other, clean.softmax(1)) + damping * F.cross_entropy(clean, other.softmax(1))
            torch.testing.assert_close(distil, expected)

    def test_without_any_label_seg_is_zero_and_distil_goes_on(self, method):
        run = run_of(method)
        values, _ = run(0, [batch_of(run, label=one_label([255, 255]))])
        assert values["seg"] == 0 and values["distil"] > 0

    def test_the_spec_says_what_the_knobs_need(self, method):
        spec = METHODS[method].SPEC

        def said(**knobs: Any) -> tuple[Any, ...]:
            config = spec.Config(**knobs)
            return spec.initial_roles(config), spec.views(config)["distil"], spec.qualifier(config)

        assert said() == (("student", "translator"), {"source"}, "")
        assert said(translator="lab") == (("student",), {"source", "target"}, "LAB translation")
        assert said(translator="identity")[1] == {"source"}
        assert said(crdomix=False) == (("student",), {"source"}, "no CrDoMix")
        assert said(crdomix=False, translator="lab") == (("student",), {"source"}, "no CrDoMix")

    def test_the_translator_is_a_run_of_its_own_and_no_part_of_the_state(self, method):
        made = Generator(width=4, blocks=1)
        context = context_of(method, initial={"translator": ("a run", made.state_dict())})
        run = METHODS[method](context)
        assert run.translator is not None
        assert not any(name.startswith("translator") for name in run.state_dict())
        with pytest.raises(UserError, match=r"init\.translator"):
            METHODS[method](context_of(method))

    def test_without_its_use_the_translator_is_not_made(self, method):
        off = {term: 1.0 for term in METHODS[method].SPEC.weights if term == "seg"}
        assert METHODS[method](context_of(method, weights=off)).translator is None
        assert METHODS[method](context_of(method, {"crdomix": False})).translator is None


def context_of(method: str, knobs: dict[str, Any] | None = None, **given: Any) -> Context:
    spec = train_spec(method, knobs=knobs or {})
    declared = METHODS[method].SPEC
    return Context(
        **{
            "knobs": declared.Config.model_validate(spec.knobs), "weights": declared.active(spec.weights),
            "classes": CLASSES, "network": spec.network, "seed": 0, **given,
        }
    )  # fmt: skip


class TestMixedView:
    def mixed(self, label: torch.Tensor, knobs: dict[str, Any] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean and the mixed view; translated pixels are black."""
        run = run_of("diga_warmup", CLEAR | (knobs or {}))
        if run.method.translator is not None:
            run.method.translator = Painter()
        made = batch_of(run, label=label)
        return made.source.image, run.method.mixed_view(made, step_of(run))

    def test_shows_half_of_each_images_classes_in_the_targets_look(self):
        label = batch(0).source.label
        clean, mixed = self.mixed(label)
        for image in range(2):
            translated = (mixed[image] == BLACK).all(0)
            classes = label[image].unique()
            black = [int(one) for one in classes if translated[label[image] == one].all()]
            assert len(black) == len(classes) - len(classes) // 2
            assert torch.equal(translated, torch.isin(label[image], torch.tensor(black)))
            assert torch.equal(mixed[image][:, ~translated], clean[image][:, ~translated])

    def test_pixels_without_a_label_are_always_the_sources(self):
        label = batch(0).source.label
        label[:, :16] = 255
        clean, mixed = self.mixed(label)
        assert torch.equal(mixed[:, :, :16], clean[:, :, :16]) and (mixed == BLACK).any()

    def test_of_a_single_class_all_is_translated_and_without_labels_nothing(self):
        clean, mixed = self.mixed(one_label([1, 255]))
        assert (mixed[0] == BLACK).all() and torch.equal(mixed[1], clean[1])

    def test_without_crdomix_it_is_the_augmented_source(self):
        clean, mixed = self.mixed(one_label([1, 1]), {"crdomix": False})
        assert torch.equal(mixed, clean)
        _, mixed = self.mixed(one_label([1, 1]), {"crdomix": False, "blend": 0.4})
        assert not torch.equal(mixed, clean) and float(mixed.min()) >= 0 and float(mixed.max()) <= 1

    def test_it_lends_its_look_from_the_target(self):
        run = run_of("diga_warmup", {"blend": 0.0})
        made = batch_of(run, label=one_label([1, 1]))
        mixed = run.method.mixed_view(made, step_of(run))
        torch.testing.assert_close(mixed.mean((2, 3)), made.target.image.mean((2, 3)), atol=0.05, rtol=0)


# --------------------------------------------------------------------------------------------------- self-training


def told(run: Any, features: torch.Tensor, predicted: torch.Tensor | None = None) -> Any:
    """The run with a teacher that says these classes, and a centroid in each class's direction."""
    channels = run.method.centroids.shape[1]
    run.method.teacher = Said(features, features if predicted is None else predicted, channels)
    run.method.centroids = torch.eye(len(CLASSES), channels)
    return run


def target_labels(run: Any, made: Batch) -> torch.Tensor:
    labels, _ = run.method._target_labels(made.target, step_of(run))
    return labels


class TestTargetLabels:
    """Of 64 x 64 pixels, from features of 64 x 64 cells."""

    def case(self, **knobs: Any) -> tuple[Any, Batch, torch.Tensor]:
        run = run_of("diga", knobs)
        said = batch(5).source.label
        return told(run, said), batch_of(run, pseudo=batch(0, ["target", "target.pseudo"]).target.pseudo), said

    def test_are_the_earlier_classes_where_the_nearest_centroid_is_theirs(self):
        run, made, said = self.case()
        labels, pseudo = target_labels(run, made), made.target.pseudo
        assert torch.equal(labels, torch.where(pseudo == said, pseudo, 255))
        assert (labels == 255).any() and (labels != 255).any()

    def test_or_those_of_one_side_alone(self):
        run, made, said = self.case(labels="feature")
        assert torch.equal(target_labels(run, made), said)
        run, made, _ = self.case(labels="probability")
        assert torch.equal(target_labels(run, made), made.target.pseudo)

    @pytest.mark.parametrize("labels", ["both", "feature"])
    def test_beyond_the_image_there_are_none(self, labels):
        run, made, said = self.case(labels=labels)
        valid = torch.ones_like(said, dtype=torch.bool)
        valid[:, :20] = False
        inside = target_labels(run, made)
        made = replace(
            made, target=replace(made.target, valid=valid, pseudo=made.target.pseudo.masked_fill(~valid, 255))
        )
        assert torch.equal(target_labels(run, made), inside.masked_fill(~valid, 255))

    @pytest.mark.parametrize("labels", ["both", "feature"])
    def test_a_class_that_was_never_seen_gives_none(self, labels):
        run, made, said = self.case(labels=labels)
        run.method.counts[1], run.method.centroids[1] = 0.0, 0.0
        found = target_labels(run, made)
        assert not (found == 1).any() and (said == 1).any()
        others = said != 1
        expected = said if labels == "feature" else torch.where(made.target.pseudo == said, said, 255)
        assert torch.equal(found[others], expected[others])

    @pytest.mark.parametrize("labels", ["both", "feature"])
    def test_with_no_class_seen_there_are_none(self, labels):
        run, made, _ = self.case(labels=labels)
        run.method.counts.zero_()
        assert (target_labels(run, made) == 255).all()

    def test_the_share_that_agrees_is_logged(self):
        run, made, said = self.case()
        step = step_of(run)
        run.method._target_labels(made.target, step)
        (share,) = step.logs["agreed"]
        assert float(share) == pytest.approx(float((made.target.pseudo == said).float().mean()))

    def test_what_each_kind_needs(self):
        spec = METHODS["diga"].SPEC
        for labels, views, artifacts in (
            ("both", ["source", "target", "target.pseudo"], ("prototypes", "counts")),
            ("feature", ["source", "target"], ("prototypes", "counts")),
            ("probability", ["source", "target", "target.pseudo"], ()),
        ):
            run = run_of("diga", {"labels": labels, "crdomix": False})
            assert needed(run.spec) == views
            assert spec.consumes(run.method.knobs, run.weights) == artifacts
        run = run_of("diga", {"labels": "probability"}, weights={"distil": 0.0})
        assert run.method.teacher is None and run.method.translator is None
        assert spec.consumes(spec.Config(), {"seg": 1.0, "distil": 1.0}) == ()


class TestCrossMix:
    def seen(self, monkeypatch: Any, label: torch.Tensor, labels: torch.Tensor, **knobs: Any) -> tuple[Any, ...]:
        """The batch, the student's images, and the term by hand and as it is."""
        run = run_of("diga", CLEAR | knobs, network=STILL)
        made, images = batch_of(run, label=label), []
        forward = run.method.net.forward
        monkeypatch.setattr(run.method.net, "forward", lambda image: images.append(image) or forward(image))
        term = run.method._cross_mix(made, labels, step_of(run))
        (image,) = images
        return made, image, term, F.interpolate(forward(image).logits, (64, 64), mode="bilinear", align_corners=True)

    def test_half_of_the_sources_classes_lie_on_the_target_with_their_labels(self, monkeypatch):
        label, labels = batch(0).source.label, batch(5).source.label
        made, image, term, logits = self.seen(monkeypatch, label, labels)
        pasted = (image == made.source.image).all(1)
        assert torch.equal(
            image[~pasted[:, None].expand_as(image)], made.target.image[~pasted[:, None].expand_as(image)]
        )
        for index in range(2):
            assert len(label[index][pasted[index]].unique()) == len(label[index].unique()) // 2
        torch.testing.assert_close(term, F.cross_entropy(logits, torch.where(pasted, label, labels)))

    def test_where_all_disagrees_the_target_adds_nothing_but_counts(self, monkeypatch):
        label = batch(0).source.label
        made, image, term, logits = self.seen(monkeypatch, label, one_label([255, 255]))
        pasted = (image == made.source.image).all(1)
        expected = F.cross_entropy(logits, label.masked_fill(~pasted, 255), ignore_index=255, reduction="sum")
        torch.testing.assert_close(term, expected / label.numel())

    def test_of_a_single_class_nothing_is_pasted_and_what_has_no_label_always(self, monkeypatch):
        made, image, term, logits = self.seen(monkeypatch, one_label([1, 255]), one_label([2, 2]))
        assert torch.equal(image[0], made.target.image[0]) and torch.equal(image[1], made.source.image[1])
        expected = F.cross_entropy(logits[:1], one_label([2]), reduction="sum") / (2 * 64 * 64)
        torch.testing.assert_close(term, expected)

    def test_without_any_label_it_is_zero(self):
        run = run_of("diga", {"labels": "probability"})
        made = batch_of(run, label=one_label([255, 255]), pseudo=one_label([255, 255]))
        assert run(0, [made])[0]["mix"] == 0

    def test_the_targets_colours_are_augmented_and_the_sources_are_not(self, monkeypatch):
        made, image, _, _ = self.seen(monkeypatch, one_label([1, 255]), one_label([2, 2]), blend=0.3)
        assert not torch.equal(image[0], made.target.image[0]) and torch.equal(image[1], made.source.image[1])

    def test_crops_of_two_sizes_are_refused(self):
        run = run_of("diga", {"labels": "probability"})
        made = batch_of(run)
        with pytest.raises(UserError, match=r"train\.source and train\.target"):
            outcome(run, replace(made, target=replace(made.target, image=made.target.image[..., :32])))


class TestCentroids:
    def test_stay_until_the_step_is_done(self):
        run = run_of("diga")
        before = run.method.centroids.clone(), run.method.counts.clone()
        _, means = outcome(run)
        assert torch.equal(run.method.centroids, before[0]) and torch.equal(run.method.counts, before[1])
        run.method.after_step([means], step_of(run))
        assert any(one.present.any() for one in means)
        assert not torch.equal(run.method.centroids, before[0])

    def test_follow_the_targets_vectors_and_then_the_sources(self):
        run = run_of("diga", {"centroid_momentum": 0.5}, network=STILL)
        made = batch_of(run)
        pseudo = run.method.teacher(made.target.image).logits.argmax(1)
        pseudo = pseudo.repeat_interleave(4, 1).repeat_interleave(4, 2)
        made = replace(made, target=replace(made.target, pseudo=pseudo))
        mixed = run.method.mixed_view(made, step_of(run))
        expected = run.method.centroids, run.method.counts
        for images, labels in (
            (made.target.image, target_labels(run, made)), (mixed, made.source.label),
        ):  # fmt: skip
            outputs = run.method.teacher(images)
            cells = labels[:, ::4, ::4]
            means = confirmed_means(outputs.features["embedding"], outputs.logits, cells)
            expected = momentum_update(*expected, means, 0.5)
        _, carried = outcome(run, made)
        assert all(one.present.any() for one in carried)
        run.method.after_step([carried], step_of(run))
        torch.testing.assert_close((run.method.centroids, run.method.counts), expected)

    def test_of_several_batches_a_step_follow_each_in_turn(self):
        run = run_of("diga", {"centroid_momentum": 0.5}, network=STILL)
        carries = [outcome(run, batch_of(run, index))[1] for index in range(2)]
        centroids, counts = run.method.centroids, run.method.counts
        for means in [*carries[0], *carries[1]]:
            centroids, counts = momentum_update(centroids, counts, means, 0.5)
        run.method.after_step(carries, step_of(run))
        assert torch.equal(run.method.centroids, centroids) and torch.equal(run.method.counts, counts)

    def test_the_few_pixels_of_a_class_do_not_move_it(self):
        run = run_of("diga", {"min_pixels": 64 * 64})
        before = run.method.centroids.clone()
        steps(run, 0, 2)
        assert torch.equal(run.method.centroids, before)

    def test_a_class_that_was_never_seen_takes_its_first_vector_whole(self):
        run = run_of("diga", {"crdomix": False}, weights={"distil": 0.0})
        said = one_label([1, 1], 16)
        told(run, said).method.counts[1] = 0.0
        run.method.centroids[1] = 0.0
        _, means = outcome(run, batch_of(run, label=one_label([1, 1])))
        run.method.after_step([means], step_of(run))
        channels = run.method.centroids.shape[1]
        assert torch.equal(run.method.centroids, torch.eye(3, channels))
        assert run.method.counts.tolist() == [1, 2, 1]  # the source's two vectors: it gave the target no label

    def test_with_no_class_seen_the_source_starts_them(self):
        run = run_of("diga")
        run.method.counts.zero_()
        run.method.centroids.zero_()
        steps(run, 0, 2)
        assert (run.method.counts > 0).any() and run.method.centroids.isfinite().all()

    def test_follow_also_without_distillation(self):
        run = run_of("diga", weights={"distil": 0.0})
        terms, means = outcome(run)
        assert set(terms) == {"seg", "mix"} and len(means) == 2

    def test_without_their_use_nothing_follows(self):
        for changes in ({"knobs": {"labels": "probability"}}, {"weights": {"mix": 0.0}}):
            run = run_of("diga", **changes)
            before = run.method.centroids.clone()
            assert outcome(run)[1] == []
            steps(run, 0, 1)
            assert torch.equal(run.method.centroids, before)

    def test_of_another_network_are_refused(self):
        artifacts = {"prototypes": torch.zeros(3, 7), "counts": torch.zeros(3)}
        with pytest.raises(UserError, match="prototypes"):
            DiGA(context_of("diga", {"crdomix": False}, artifacts=artifacts))


def test_the_later_stage_has_the_warm_ups_knobs_and_blends_less():
    assert issubclass(DiGA, DiGAWarmup) and issubclass(DiGA.SPEC.Config, Config)
    assert (Config().blend, DiGA.SPEC.Config().blend) == (0.4, 0.3)
    assert isinstance(run_of("diga").method.teacher, EmaTeacher)
