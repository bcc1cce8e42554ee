"""PiPa where no golden looks: what is off is not there, whom its terms reach, and what it leaves alone."""

from typing import Any

import pytest
import torch
from support.tiny import batch, equal, needed, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.engine.checkpoint import load_resume, save_resume
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Step
from udaseg.methods.self_training.contrast_terms import BANK_STEPS
from udaseg.methods.self_training.pipa import Config

HOSTS = {"pipa": "daformer", "dacs_pipa": "dacs"}
SMALL = {
    "patch_size": [32, 32], "patch_start": 0, "patch_anchors": 8, "pixels_per_class": 20,
    "pixel_width": 16, "pixel_outputs": 8, "patch_width": 16, "patch_outputs": 8,
}  # fmt: skip
RELEASED = {"patch": "released", "patch_confidence": 0.0}
OFF = {"pixel": 0.0, "patch": 0.0}


def run_of(method: str = "pipa", knobs: dict[str, Any] | None = None, **changes: Any) -> Any:
    return stepper(train_spec(method, knobs=SMALL | (knobs or {}), **changes))


def given_to(run: Any, index: int = 0) -> Batch:
    return batch(index, needed(run.spec))


def groups(run: Any, index: int = 90, given: Batch | None = None) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    step = Step(index, 100, run.weights, torch.Generator().manual_seed(0))
    return list(run.method.losses(given or given_to(run), step))


def terms_of(run: Any, index: int = 90, given: Batch | None = None) -> dict[str, torch.Tensor]:
    return {name: term for group in groups(run, index, given) for name, term in group.items()}


def reached(run: Any) -> dict[str, bool]:
    return {
        name: parameter.grad is not None and bool(parameter.grad.any())
        for name, parameter in run.method.named_parameters()
    }


def labelled(run: Any, label: torch.Tensor) -> Batch:
    given = given_to(run)
    return Batch(Labelled(given.source.image, label), given.target)


@pytest.mark.parametrize("method", HOSTS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_its_terms_it_is_its_host_bit_by_bit(method: str, optimizer: str) -> None:
    ours = run_of(method, weights=OFF | {"masked": 1.0}, optim={"name": optimizer})
    theirs = stepper(train_spec(HOSTS[method], weights={"masked": 1.0}, optim={"name": optimizer}))
    for run in (ours, theirs):
        steps(run, 0, 4)
    assert equal(tensors(ours.method), tensors(theirs.method))
    assert ours.method.contrast is None and list(ours.optimizers) == list(theirs.optimizers)


@pytest.mark.parametrize("method", HOSTS)
def test_its_spec_is_its_hosts_with_two_terms(method: str) -> None:
    ours, theirs = METHODS[method].SPEC, METHODS[HOSTS[method]].SPEC
    assert dict(ours.weights) == {**theirs.weights, "pixel": 0.1, "patch": 0.1}
    assert list(ours.weights)[-2:] == ["pixel", "patch"]
    assert (ours.roles, ours.requires, ours.always) == (theirs.roles, theirs.requires, theirs.always)
    host = theirs.Config().model_dump()
    assert {name: value for name, value in ours.Config().model_dump().items() if name in host} == host


@pytest.mark.parametrize("method", HOSTS)
@pytest.mark.parametrize("pixel", ["paper", "released"])
def test_the_host_sees_the_same_images_with_and_without_it(method: str, pixel: str) -> None:
    """Also those that it mixes and augments itself, with numbers of the step's and of the global generator."""
    seen: list[list[torch.Tensor]] = []
    for weights in ({}, OFF):
        run = run_of(method, {"pixel": pixel, "jitter": 0.5, "blur": 1.0}, weights={**weights, "masked": 1.0})
        seen.append([])
        run.method.net.register_forward_pre_hook(lambda _, inputs, images=seen[-1]: images.append(inputs[0].clone()))
        for index in range(3):
            run(index, [given_to(run, index)])
    ours, theirs = seen
    # The source, the mixed and the masked images of a step, and ours after them.
    assert len(ours) == 12 and len(theirs) == 9
    for index in range(3):
        assert all(map(torch.equal, ours[4 * index :], theirs[3 * index : 3 * index + 3]))


@pytest.mark.parametrize("method", HOSTS)
def test_terms_come_in_groups(method: str) -> None:
    run = run_of(method)
    first = ["seg", "fd", "pixel"] if method == "pipa" else ["seg", "pixel"]
    assert [list(group) for group in groups(run)] == [first, ["mix"], ["patch"]]


def test_the_patch_term_starts_when_told() -> None:
    run = run_of(knobs={"patch_start": 2})
    assert ["patch" in run(index, [given_to(run, index)])[0] for index in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("released", [{}, {"pixel": "released"}])
def test_the_pixel_term_reaches_the_student_and_its_projection(released: dict[str, Any]) -> None:
    run = run_of(knobs=released)
    terms_of(run)["pixel"].backward()
    got = reached(run)
    assert all(got[name] for name in got if name.startswith(("net.backbone", "contrast.pixels")))
    assert not any(found for name, found in got.items() if not name.startswith(("net.backbone", "contrast.pixels")))


@pytest.mark.parametrize("image", ["target", "mixed"])
@pytest.mark.parametrize("negatives", ["all", "other_class"])
def test_the_patch_term_reaches_the_student_and_its_projection(image: str, negatives: str) -> None:
    run = run_of(knobs={"patch_image": image, "patch_negatives": negatives})
    terms_of(run)["patch"].backward()
    got = reached(run)
    assert all(got[name] for name in got if name.startswith(("net.backbone", "contrast.patches")))
    assert not any(found for name, found in got.items() if not name.startswith(("net.backbone", "contrast.patches")))


@pytest.mark.parametrize("image", ["target", "mixed"])
def test_the_released_patch_term_cannot_change_the_student(image: str) -> None:
    run = run_of(knobs=RELEASED | {"patch_image": image})
    term = terms_of(run)["patch"]
    assert term > 0
    term.backward()
    assert all(parameter.grad is None for parameter in run.method.net.parameters())
    assert all(found == name.startswith("contrast.patches") for name, found in reached(run).items())


def test_the_released_patch_term_trains_its_projection() -> None:
    run = run_of(knobs=RELEASED, weights={"pixel": 0.0})
    before = tensors(run.method.contrast.patches)
    steps(run, 0, 2)
    assert not equal(before, tensors(run.method.contrast.patches))


def test_a_heavy_released_patch_term_leaves_the_students_steps_as_they_are_without_it() -> None:
    knobs = RELEASED | {"teacher_norm": "student"}  # whose forward passes leave no trace
    ours = run_of(knobs=knobs, weights={"pixel": 0.0, "patch": 100.0})
    theirs = run_of(knobs=knobs, weights=OFF)
    for run in (ours, theirs):
        steps(run, 0, 3)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert equal(tensors(ours.method.teacher), tensors(theirs.method.teacher))


@pytest.mark.parametrize(
    ("term", "knobs", "share"),
    [
        ("patch", {}, 0.8),
        ("patch", RELEASED, 0.95),  # only the projection follows it, with labels that mean nothing
        ("pixel", {}, 0.8),
        ("pixel", {"pixel": "released"}, 0.8),
    ],
)
def test_a_term_falls_on_repeated_images(term: str, knobs: dict[str, Any], share: float) -> None:
    optim, weights = {"lr": 3e-3, "schedule": "constant"}, OFF | {"mix": 0.0, "fd": 0.0, term: 1.0}
    run = run_of(knobs=knobs, weights=weights, optim=optim)
    given = given_to(run)
    values = [run(5, [given])[0][term] for _ in range(20)]
    assert values[-1] < share * values[3]  # from then on the bank is full


class TestDegenerate:
    @pytest.mark.parametrize("pixel", ["paper", "released"])
    def test_one_class_is_no_contrast(self, pixel: str) -> None:
        run = run_of(knobs={"pixel": pixel})
        assert terms_of(run, given=labelled(run, torch.ones(2, 64, 64, dtype=torch.int64)))["pixel"] == 0

    def test_void_is_never_drawn_in_the_papers_form(self) -> None:
        run = run_of()
        label = torch.ones(2, 64, 64, dtype=torch.int64)
        label[:, :32] = 255
        assert terms_of(run, given=labelled(run, label))["pixel"] == 0
        assert terms_of(run, given=labelled(run, torch.full((2, 64, 64), 255)))["pixel"] == 0

    def test_void_is_a_class_in_the_released_form(self) -> None:
        run = run_of(knobs={"pixel": "released"})
        label = torch.ones(2, 64, 64, dtype=torch.int64)
        label[:, :32] = 255
        assert terms_of(run, given=labelled(run, label))["pixel"] > 0

    def test_no_class_with_enough_pixels(self) -> None:
        run = run_of(knobs={"pixel": "released", "pixels_per_class": 1000})
        term = terms_of(run)["pixel"]
        term.backward()
        assert term == 0 and not any(reached(run).values())

    def test_nothing_confident_enough(self) -> None:
        run = run_of(knobs={"patch": "released", "patch_confidence": 1.0})
        term = terms_of(run)["patch"]
        term.backward()
        assert term == 0 and not any(reached(run).values())

    @pytest.mark.parametrize("knobs", [{}, RELEASED])
    def test_identical_crops_overlap_everywhere(self, knobs: dict[str, Any]) -> None:
        run = run_of(knobs=knobs | {"patch_size": [64, 96], "patch_scale": [1.0, 1.0]})
        assert terms_of(run)["patch"].isfinite()

    @pytest.mark.parametrize("patch", ["paper", "released"])
    def test_without_any_other_target_term(self, patch: str) -> None:
        for image in ("target", "mixed"):
            run = run_of(
                knobs={"patch": patch, "patch_image": image, "patch_negatives": "other_class", "patch_confidence": 0.0},
                weights={"mix": 0.0},
            )
            steps(run, 0, 2)
            assert set(terms_of(run)) == {"seg", "fd", "pixel", "patch"}
            assert run.method.teacher is not None

    def test_a_teacher_without_use_is_not_built(self) -> None:
        assert run_of(weights={"mix": 0.0}).method.teacher is None
        assert (
            run_of(knobs={"patch_negatives": "other_class"}, weights={"mix": 0.0, "patch": 0.0}).method.teacher is None
        )


class TestBank:
    def test_holds_the_last_steps(self) -> None:
        run = run_of(knobs=RELEASED)
        filled = []
        for index in range(5):
            newest = run.method.contrast.bank[-1].clone()
            run(index, [given_to(run, index)])
            filled.append(int((run.method.contrast.bank_labels != 255).any(dim=1).sum()))
            assert torch.equal(run.method.contrast.bank[-2], newest)
        assert filled == [1, 2, 3, 3, 3] and len(run.method.contrast.bank) == BANK_STEPS
        # Two images, two crops, cells of 8 x 8 pixels.
        assert int((run.method.contrast.bank_labels[-1] != 255).sum()) == 2 * 2 * 4 * 4

    def test_is_in_the_state_and_resumed(self, tmp_path: Any) -> None:
        whole, first, second = (run_of(knobs=RELEASED | {"pixel": "released"}) for _ in range(3))
        steps(whole, 0, 4)
        steps(first, 0, 2)
        save_resume(tmp_path, 2, first.method, first.optimizers, {})
        for tensor in second.method.state_dict().values():
            tensor.zero_()  # all that changes must come from the checkpoint
        load_resume(tmp_path, second.method, second.optimizers)
        assert torch.equal(second.method.contrast.bank, first.method.contrast.bank)
        steps(second, 2, 4)
        assert equal(tensors(second.method), tensors(whole.method))

    def test_only_the_released_form_has_one(self) -> None:
        assert not any("bank" in name for name in run_of().method.state_dict())


class TestSettings:
    def test_only_what_is_on_is_built(self) -> None:
        for off, kept in (("pixel", "patches"), ("patch", "pixels")):
            names = {name.split(".")[0] for name in run_of(weights={off: 0.0}).method.contrast.state_dict()}
            assert names == {kept}

    def test_the_projections_learn_at_the_rate_of_the_heads(self) -> None:
        run = run_of(optim={"lr": 1e-3, "head_lr_factor": 10.0})
        (group,) = run.optimizers["contrast"].param_groups
        assert group["lr"] == pytest.approx(1e-2)
        assert len(group["params"]) == len(list(run.method.contrast.parameters()))

    def test_crops_larger_than_the_image_are_refused(self) -> None:
        run = run_of(knobs={"patch_size": [56, 56]})
        with pytest.raises(UserError, match=r"patch_size: at most \[51, 77\] expected.*found \[56, 56\]"):
            run(0, [given_to(run)])

    def test_cells_finer_than_the_network_s_are_refused(self) -> None:
        run = run_of(knobs={"patch_stride": 2})
        with pytest.raises(UserError, match=r"patch_stride: .*\[8, 8\]; found 2"):
            run(0, [given_to(run)])

    @pytest.mark.parametrize(
        ("knobs", "part"),
        [
            ({"patch_size": [36, 32]}, "multiples of patch_stride"),
            ({"patch_scale": [2.0, 1.0]}, "patch_scale: a lower and an upper bound"),
            ({"patch_overlap": [0.5, 0.1]}, "patch_overlap: a lower and an upper bound"),
            ({"patch": "official"}, "paper"),
        ],
    )
    def test_impossible_knobs_are_refused(self, knobs: dict[str, Any], part: str) -> None:
        with pytest.raises(ValueError, match=part):
            Config.model_validate(SMALL | knobs)

    def test_views_follow_the_knobs(self) -> None:
        spec = METHODS["pipa"].SPEC
        weights = {"seg": 1.0, "patch": 0.1}
        assert spec.streams(Config(), weights) == ["source", "target", "target.full"]
        assert spec.streams(Config(patch_image="mixed"), weights) == ["source", "target"]
        assert spec.streams(Config(), {"seg": 1.0, "pixel": 0.1}) == ["source"]

    def test_untrained_classifiers_are_declared_idle(self) -> None:
        idle = METHODS["pipa"].SPEC.idle
        assert not idle(Config(), {"pixel": 0.1, "patch": 0.1})
        assert set(idle(Config(pixel="released"), {"pixel": 0.1})) == {"contrast.side"}
        assert set(idle(Config(patch="released"), {"patch": 0.1})) == {"contrast.classifier"}
        assert not idle(Config(patch="released", pixel="released"), {})
