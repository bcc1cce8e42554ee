"""The memory bank's method: what fills its bank, what its terms reach, when they start, and what a run carries on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch
from udaseg.engine.checkpoint import load_resume, save_resume
from udaseg.methods.base import Step
from udaseg.methods.memory_bank import CONTRAST, ON_TARGET, Config
from udaseg.ops.class_balance import balanced_weights, count_classes

EARLY = {
    "projection": 16, "bank_size": 32, "bank_start": 0, "contrast_start": 0, "ramp_iterations": 1, "weights_start": 0,
    "window": 2,
}  # fmt: skip
LATE = 90


def run_of(filled: bool = False, **changes: Any) -> Any:
    """A run that starts everything at once; its bank is empty unless told otherwise."""
    run = stepper(train_spec("memory_bank", **changes | {"knobs": EARLY | changes.pop("knobs", {})}))
    if not filled and run.method.memory is not None:
        run.method.memory.bank.zero_()
        run.method.memory.counts.zero_()
    return run


def step_of(run: Any, index: int = LATE) -> Step:
    return Step(index, 100, run.weights, torch.Generator().manual_seed(index))


def terms_of(run: Any, index: int = LATE, made: Batch | None = None) -> dict[str, torch.Tensor]:
    """The terms of a step, unweighted; nothing is propagated back."""
    torch.manual_seed(0)
    groups = run.method.losses(made or batch(0, needed(run.spec)), step_of(run, index))
    return {name: term for group in groups for name, term in group.items()}


def reached(run: Any, term: torch.Tensor) -> set[str]:
    run.method.zero_grad(set_to_none=True)
    term.backward()
    return {
        name for name, parameter in run.method.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


def sure(run: Any) -> Any:
    """The run with a teacher that is sure of class 1 everywhere."""
    with torch.no_grad():
        run.method.teacher.net.head.branches[0].bias[1] = 100
    return run


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_its_terms_and_class_weights_it_is_source_only_bit_by_bit(optimizer: str) -> None:
    off = dict.fromkeys([*CONTRAST, *ON_TARGET], 0.0)
    knobs = {"source_mix": 0.0, "weights_start": 100}
    ours = run_of(optim={"name": optimizer}, weights=off, knobs=knobs)
    theirs = stepper(train_spec("source_only", optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert ours.method.teacher is None
    assert ours.method.memory is None
    assert list(ours.optimizers) == ["network"]


class TestGradients:
    @pytest.mark.parametrize("term", CONTRAST)
    @pytest.mark.parametrize("selectors", ["paper", "released", "none"])
    def test_contrast_reaches_the_backbone_and_the_heads(self, term: str, selectors: str) -> None:
        run = run_of(filled=True, knobs={"selectors": selectors})
        got = reached(run, terms_of(run)[term])
        assert {name.split(".")[1] for name in got if name.startswith("net.")} == {"backbone"}
        heads = {name.split(".")[2] for name in got if name.startswith("memory.")}
        expected = {"projection", "prediction"} | ({"selectors"} if selectors != "none" else set())
        assert heads == expected | ({"memory_selectors"} if selectors == "paper" else set())

    @pytest.mark.parametrize("term", ["seg", "pseudo", "entropy"])
    def test_the_other_terms_reach_the_network(self, term: str) -> None:
        run = run_of(filled=True)
        got = reached(run, terms_of(run)[term])
        assert got == {f"net.{name}" for name, _ in run.method.net.named_parameters()}

    def test_teacher_and_bank_have_none(self) -> None:
        run = run_of(filled=True)
        steps(run, LATE, LATE + 1)
        assert all(parameter.grad is None for parameter in run.method.teacher.parameters())
        assert all(parameter.grad is None for parameter in run.method.memory.teacher_heads.parameters())
        assert not run.method.memory.bank.requires_grad

    def test_as_released_the_banks_selectors_are_not_there_at_all(self) -> None:
        run = run_of(knobs={"selectors": "released"})
        assert not any("memory_selectors" in name for name, _ in run.method.named_parameters())

    def test_training_on_it_brings_the_labelled_rows_nearer_to_the_bank(self) -> None:
        weights = {"contrast_source": 1.0, "contrast_target": 0.0, "pseudo": 0.0, "entropy": 0.0}
        # A bank that does not change: no prediction is certain.
        knobs = {"source_mix": 0.0, "confidence": 1.0}
        run = run_of(filled=True, weights=weights, knobs=knobs, optim={"lr": 3e-3, "schedule": "constant"})
        run.method.memory.bank[:] = run.method.memory.bank[:, :1].clone()  # one direction for each class
        values = [run(LATE, [batch(0, needed(run.spec))])[0]["contrast_source"] for _ in range(8)]
        assert values[-1] < 0.9 * values[0]


class TestBank:
    def test_it_fills_with_as_many_vectors_as_an_image_may_add(self) -> None:
        run = sure(run_of(knobs={"source_mix": 0.0, "per_image": 3}))
        terms_of(run)
        assert run.method.memory.counts.tolist() == [0, 2 * 3, 0]

    def test_wrong_and_unsure_predictions_do_not_fill_it(self) -> None:
        run = run_of(knobs={"confidence": 1.0})
        terms_of(run)
        sure(run)
        made = batch(0)
        others = made.source.label.masked_fill(made.source.label == 1, 255)
        terms_of(run, made=replace(made, source=replace(made.source, label=others)))
        assert not run.method.memory.counts.any()

    def test_the_contrast_of_a_step_sees_its_own_vectors(self) -> None:
        """As released: the bank is filled before the loss is computed."""
        run = sure(run_of(knobs={"source_mix": 0.0}))
        assert terms_of(run)["contrast_source"] > 0

    def test_it_fills_only_after_its_start(self) -> None:
        run = sure(run_of(knobs={"bank_start": 10}))
        terms_of(run, 10)
        assert not run.method.memory.counts.any()
        terms_of(run, 11)
        assert run.method.memory.counts.any()

    def test_in_the_semi_supervised_setting_target_images_alone_fill_it_and_are_counted(self) -> None:
        run = sure(run_of())
        made = batch(0)
        other, target = (replace(made, source=replace(made.source, from_target=value)) for value in (False, True))
        for index, given in enumerate([other, target, other]):
            before = run.method.memory.counts.clone(), run.method.frequencies.batches.clone()
            terms = terms_of(run, LATE + index, given)
            changed = not torch.equal(before[0], run.method.memory.counts)
            assert changed == (given is target)
            assert bool(run.method.frequencies.batches > before[1]) == (given is target)
            assert set(terms) == {"seg", *CONTRAST, *ON_TARGET}
        assert terms["contrast_source"] > 0  # also on the source's images

    def test_ported_to_unsupervised_adaptation_all_labelled_images_fill_it(self) -> None:
        run = sure(run_of())
        for _ in range(2):
            before = int(run.method.memory.counts.sum())
            terms_of(run, made=batch(0))
            assert int(run.method.memory.counts.sum()) > before


class TestStarts:
    def test_contrast_is_zero_and_connected_until_its_start(self) -> None:
        run = run_of(filled=True, knobs={"contrast_start": 10})
        early, late = terms_of(run, 10), terms_of(run, 11)
        for term in CONTRAST:
            assert early[term] == 0
            assert early[term].requires_grad
            assert late[term] > 0

    def test_the_weight_of_pseudo_labels_grows(self) -> None:
        knobs = {"ramp_iterations": 40, "mix": 0.0, "source_mix": 0.0}
        values = []
        for index in (0, 20, 40):
            run = run_of(knobs=knobs)
            made = step_of(run, index)
            made.generator.manual_seed(0)
            torch.manual_seed(0)
            values.append(list(run.method.losses(batch(0), made))[1]["pseudo"].detach())
        ratio = [float(value / values[-1]) for value in values]
        assert ratio == pytest.approx([0.0067379, 0.2865048, 1.0], rel=1e-4)

    def test_classes_are_weighted_after_the_start_once_the_window_is_full(self) -> None:
        run = run_of(knobs={"source_mix": 0.0, "weights_start": 5, "window": 2})
        plain = run_of(knobs={"source_mix": 0.0, "weights_start": 100})
        same = [torch.equal(*(terms_of(one, index)["seg"] for one in (run, plain))) for index in (0, 5, 6)]
        assert same == [True, True, False]
        waiting, plain = (run_of(knobs={"source_mix": 0.0, "weights_start": start}) for start in (0, 100))
        for full in (False, True):  # past its start, but the window holds two batches
            terms = [terms_of(one)["seg"] for one in (waiting, plain)]
            assert torch.allclose(*terms) != full

    def test_the_weights_are_those_of_labels_and_pseudo_labels(self) -> None:
        run = sure(run_of(knobs={"window": 1}))
        made = batch(0)
        terms_of(run, made=made)
        pixels = count_classes(made.source.label, 3)
        pixels[1] += made.target.valid.numel()
        torch.testing.assert_close(run.method.frequencies.weights(), balanced_weights(pixels))


class TestDegenerate:
    def test_with_nothing_labelled_all_is_finite_and_the_bank_stays(self) -> None:
        run = sure(run_of(filled=True))
        before = run.method.memory.bank.clone()
        made = batch(0)
        nothing = replace(made.source, label=torch.full_like(made.source.label, 255))
        values, _ = run(LATE, [Batch(nothing, made.target)])
        assert values["seg"] == values["contrast_source"] == 0
        assert torch.equal(run.method.memory.bank, before)

    def test_pixels_beyond_the_target_image_have_no_pseudo_label(self) -> None:
        run = run_of(filled=True, knobs={"window": 1})
        made = batch(0)
        beyond = replace(made.target, valid=torch.zeros_like(made.target.valid))
        terms = terms_of(run, made=Batch(made.source, beyond))
        assert [float(terms[name].detach()) for name in ON_TARGET] == [0, 0, 0]
        assert not run.method.frequencies.pseudo.any()

    def test_an_empty_bank_gives_zero(self) -> None:
        terms = terms_of(run_of(knobs={"confidence": 1.0}))
        assert [float(terms[name].detach()) for name in CONTRAST] == [0, 0]

    def test_as_released_the_entropy_of_two_views_of_two_images_is_four_times_larger(self) -> None:
        knobs = {"rescale": 0.0, "mix": 0.0}  # so that all pixels are valid
        paper, released = (terms_of(run_of(knobs={**knobs, "entropy": form})) for form in ("paper", "released"))
        torch.testing.assert_close(released["entropy"], 4 * paper["entropy"])


class TestAfterTheStep:
    def test_teacher_and_its_heads_follow_with_the_same_share(self) -> None:
        run = run_of(filled=True)
        steps(run, 0, 1)  # the first update makes them equal
        memory = run.method.memory
        for teacher, student in ((run.method.teacher.net, run.method.net), (memory.teacher_heads, memory.heads)):
            assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), student.parameters(), strict=True))
        before = {name: parameter.detach().clone() for name, parameter in run.method.named_parameters()}
        steps(run, 1, 2)  # a true average of two
        after = dict(run.method.named_parameters())
        for teacher, student in (("teacher.net.", "net."), ("memory.teacher_heads.", "memory.heads.")):
            names = [name for name in after if name.startswith(teacher)]
            assert names
            for name in names:
                expected = 0.5 * before[name] + 0.5 * after[student + name.removeprefix(teacher)].detach()
                torch.testing.assert_close(after[name].detach(), expected)

    def test_the_teacher_normalises_with_its_batches_and_keeps_its_own_statistics(self) -> None:
        run = run_of()
        run.method.eval()
        assert run.method.teacher.net.training
        run.method.train()
        steps(run, 0, 1)
        teacher, student = (net.backbone.stem[1].running_mean for net in (run.method.teacher.net, run.method.net))
        assert not torch.equal(teacher, student)

    def test_a_resumed_run_has_the_same_bank_and_frequencies(self, tmp_path: Any) -> None:
        # So unsure a prediction may enter that the bank changes at every step.
        changes = {"knobs": {"confidence": 0.0, "source_mix": 0.5}}
        whole, first, second = run_of(**changes), run_of(**changes), run_of(**changes)
        steps(whole, 0, 4)
        assert whole.method.memory.counts.any()
        steps(first, 0, 2)
        save_resume(tmp_path, 2, first.method, first.optimizers, {})
        for tensor in second.method.state_dict().values():
            tensor.zero_()
        load_resume(tmp_path, second.method, second.optimizers)
        steps(second, 2, 4)
        assert equal(tensors(second.method), tensors(whole.method))
        saved = {"memory.bank", "memory.counts", "frequencies.labels", "frequencies.pseudo", "frequencies.batches"}
        assert saved <= set(whole.method.state_dict())


class TestViews:
    def test_two_views_of_each_image_are_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = run_of(weights=dict.fromkeys(CONTRAST, 0.0))
        seen = []
        forward = run.method.net.forward
        monkeypatch.setattr(run.method.net, "forward", lambda images: seen.append(images) or forward(images))
        terms_of(run)
        assert [len(images) for images in seen] == [2, 4]
        assert not torch.equal(seen[1][:2], seen[1][2:])

    def test_without_target_terms_no_target_image_is_needed(self) -> None:
        run = run_of(weights=dict.fromkeys(ON_TARGET, 0.0))
        assert needed(run.spec) == ["source"]
        assert set(terms_of(run)) == {"seg", "contrast_source"}

    @pytest.mark.parametrize(("index", "mixes"), [(5, False), (6, True)])
    def test_target_images_are_mixed_after_the_ramp(self, index: int, mixes: bool) -> None:
        run = run_of(knobs={"ramp_iterations": 5, "mix": 1.0, "source_mix": 0.0, "jitter": 0.0, "blur": 0.0,
                            "rescale": 0.0})  # fmt: skip
        seen = []
        run.method.net.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        made = batch(0)
        with torch.no_grad():  # two images of which the teacher sees other classes
            run.method.teacher.net.head.branches[0].weight.mul_(1000)
        terms_of(run, index, made)
        image = made.target.image
        whole = [any(torch.equal(view, one) for one in (*image, *image.flip(-1))) for view in seen[1]]
        assert all(whole) != mixes


def test_labelled_images_are_mixed_by_chance() -> None:
    made = batch(0)
    for chance, same in ((0.0, True), (1.0, False)):
        run = run_of(knobs={"source_mix": chance})
        mixed = run.method._mixed(made.source, step_of(run))
        assert torch.equal(mixed.image, made.source.image) == same
        assert torch.equal(mixed.label, made.source.label) == same


def test_defaults_are_the_releases() -> None:
    knobs = Config()
    assert (knobs.bank_size, knobs.confidence, knobs.ema) == (256, 0.95, 0.995)
    assert (knobs.bank_start, knobs.contrast_start, knobs.ramp_iterations) == (1000, 2000, 2000)
