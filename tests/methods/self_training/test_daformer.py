"""DAFormer where no golden looks: without its distance it is DACS, and the distance pulls things and nothing else."""

from typing import Any

import pytest
import torch
from support.tiny import batch, equal, stepper, steps, tensors, train_spec

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.engine.checkpoint import load_resume, save_resume
from udaseg.errors import UserError
from udaseg.methods.base import Step
from udaseg.methods.self_training.dacs import Config as HostConfig
from udaseg.methods.self_training.daformer import FEATURE, Config

CAR = 2  # the only thing among the classes


def run_of(**changes: Any) -> Any:
    return stepper(train_spec("daformer", **changes))


def first_group(run: Any, given: Batch | None = None) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = next(
        run.method.losses(given or batch(0), Step(90, 100, run.weights, torch.Generator()))
    )
    return found


def labelled(label: torch.Tensor) -> Batch:
    given = batch(0)
    return Batch(Labelled(given.source.image, label), given.target)


def moved(run: Any) -> Any:
    """The run with an encoder that has left its initial weights."""
    with torch.no_grad():
        for parameter in run.method.net.backbone.parameters():
            parameter.mul_(1.1)
    return run


def reached(method: Any) -> dict[str, bool]:
    return {
        name: parameter.grad is not None and bool(parameter.grad.any())
        for name, parameter in method.net.named_parameters()
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_without_its_distance_and_with_the_knobs_of_dacs_it_is_dacs_bit_by_bit(optimizer: str, masked: float) -> None:
    knobs, optim = HostConfig().model_dump(mode="json"), {"name": optimizer}
    ours = run_of(knobs=knobs, weights={"fd": 0.0, "masked": masked}, optim=optim)
    theirs = stepper(train_spec("dacs", weights={"masked": masked}, optim=optim))
    for run in (ours, theirs):
        steps(run, 0, 4)
    assert equal(tensors(ours.method.net), tensors(theirs.method.net))
    assert equal(tensors(ours.method.teacher), tensors(theirs.method.teacher))


def test_a_heavy_distance_keeps_the_features_of_things() -> None:
    kept, free = (run_of(weights={"fd": weight, "mix": 0.0}, optim={"lr": 3e-3}) for weight in (1.0, 1e-12))
    for run in (kept, free):
        for index in range(10):
            run(index, [batch(0)])
    assert first_group(kept)["fd"] < 0.5 * first_group(free)["fd"]


def test_at_the_initial_weights_in_evaluation_mode_the_distance_is_zero_and_its_gradient_finite() -> None:
    run = run_of()
    run.method.net.eval()
    distance = first_group(run)["fd"]
    distance.backward()
    assert distance == 0
    assert all(parameter.grad.isfinite().all() for parameter in run.method.net.backbone.layer4.parameters())


def test_the_distance_reaches_the_encoder_up_to_its_feature_and_nothing_else() -> None:
    run = moved(run_of())
    first_group(run)["fd"].backward()
    got = reached(run.method)
    encoder = ("backbone.stem", "backbone.layer")
    assert all(found == name.startswith(encoder) for name, found in got.items())
    assert all(parameter.grad is None for parameter in run.method.teacher.parameters())
    assert all(parameter.grad is None for parameter in run.method.initial.net.parameters())


def test_only_cells_of_things_count() -> None:
    label = torch.full((2, 64, 64), 1)
    label[:, :, :32] = CAR
    run = moved(run_of())
    half = first_group(run, labelled(label))["fd"]
    features = run.method.net(batch(0).source.image).features[FEATURE]
    with torch.no_grad():
        reference = run.method.initial(run.method.net.normalise(batch(0).source.image))[FEATURE]
    expected = (features - reference).norm(dim=1)[:, :, :4].mean()
    torch.testing.assert_close(half, expected)


@pytest.mark.parametrize("label", [0, 255])
def test_no_thing_is_a_distance_of_zero(label: int) -> None:
    run = moved(run_of())
    distance = first_group(run, labelled(torch.full((2, 64, 64), label)))["fd"]
    distance.backward()
    assert distance == 0
    assert not any(reached(run.method).values())


def test_the_initial_encoder_stays_and_is_not_in_the_state() -> None:
    run = run_of()
    before = tensors(run.method.initial.net)
    steps(run, 0, 2)
    assert equal(before, tensors(run.method.initial.net))
    assert equal(before, tensors(run_of().method.net.backbone))
    assert not any("initial" in name for name in run.method.state_dict())


def test_a_resumed_run_has_the_initial_encoder_again(tmp_path: Any) -> None:
    whole, first, second = run_of(), run_of(), run_of()
    steps(whole, 0, 4)
    steps(first, 0, 2)
    save_resume(tmp_path, 2, first.method, first.optimizers, {})
    for tensor in second.method.state_dict().values():
        tensor.zero_()  # all else that counts must come from the checkpoint
    load_resume(tmp_path, second.method, second.optimizers)
    steps(second, 2, 4)
    assert equal(tensors(second.method), tensors(whole.method))


def test_without_its_weight_there_is_no_second_encoder() -> None:
    assert run_of(weights={"fd": 0.0}).method.initial is None


def test_things_that_the_study_lacks_are_left_out() -> None:
    assert run_of().method.things == [CAR]
    assert run_of(knobs={"things": ["sky", "tram"]}).method.things == [1]


def test_no_thing_among_the_classes_is_refused_while_the_distance_is_on() -> None:
    with pytest.raises(UserError, match=r"things: none of \['tram'\]"):
        run_of(knobs={"things": ["tram"]})
    run_of(knobs={"things": ["tram"]}, weights={"fd": 0.0})


def test_its_defaults_differ_from_those_of_dacs_where_the_releases_do() -> None:
    ours, theirs = Config().model_dump(), HostConfig().model_dump()
    assert {name: ours[name] for name in theirs if ours[name] != theirs[name]} == {
        "ema": 0.999, "mix_classes": "batch", "jitter": 0.2, "ignore_top": 15, "ignore_bottom": 120,
        "source_mean": "all",
    }  # fmt: skip
