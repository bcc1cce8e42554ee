"""What every method promises the plan and the engine. A method in METHODS is covered without a line here.

Points are the method's defaults and every choice, and every pair of choices, of its knobs with a fixed set of values.
Knobs that several methods share, a host's or a plug-in's, are met on the first method that has them. The fast tests
take one choice at a time, and the defaults where a term is off; the slow ones take the rest.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from support.cuda_operators import as_on_cuda
from support.tiny import batch, equal, needed, stepper, steps, tensors, train_spec
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from udaseg.data.batches.streams import VIEWS
from udaseg.engine.checkpoint import load_resume, save_resume
from udaseg.engine.step import Stepper
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Knobs
from udaseg.methods.proda.proda import DenoisingKnobs, WarpKnobs

LATE = 90  # of 100 steps: past every schedule's start
# Knobs that cost time, or that start a term late, and decide nothing that is tested here.
SMALL = {
    "hidden": 16, "width": 4, "projection": 16, "patch_start": 0, "bank_start": 0, "contrast_start": 0,
    "ramp_iterations": 1, "weights_start": 0, "window": 1, "patch_size": [32, 32], "patch_confidence": 0.0,
    "pixels_per_class": 20, "pixel_width": 16, "pixel_outputs": 8, "patch_width": 16, "patch_outputs": 8,
    "patch_anchors": 4, "queue": 16, "samples": 8, "critic_width": 4,
}  # fmt: skip

LABELLING = [name for name, method in METHODS.items() if method.SPEC.predicts == "labels"]  # with a supervised term


def choices(config: type[Knobs]) -> dict[str, list[Any]]:
    """Knob -> the values other than its default, for knobs with a fixed set of them."""
    found = {}
    for name, field in config.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        values = (True, False) if field.annotation is bool else values
        found[name] = [value for value in values if value != field.default]
    return {name: values for name, values in found.items() if values}


def points(config: type[Knobs]) -> Iterator[dict[str, Any]]:
    others = choices(config)
    for count in (0, 1, 2):
        for names in combinations(others, count):
            for values in product(*(others[name] for name in names)):
                yield dict(zip(names, values, strict=True))


def owned(config: type[Knobs]) -> set[tuple[type, str]]:
    """Each knob with the class that declares it, its own or one that it inherits from."""
    return {(next(c for c in config.__mro__ if name in c.__annotations__), name) for name in config.model_fields}


# Described once, but each method has code of its own for them.
APART = {DenoisingKnobs, WarpKnobs}


def own_points(method: str) -> Iterator[dict[str, Any]]:
    """The points of the knobs that no method before this one has."""
    before = list(METHODS)[: list(METHODS).index(method)]
    met = set().union(*(owned(METHODS[other].SPEC.Config) for other in before))
    new = {name for owner, name in owned(METHODS[method].SPEC.Config) if owner in APART or (owner, name) not in met}
    return (knobs for knobs in points(METHODS[method].SPEC.Config) if new.issuperset(knobs))


def title(method: str, knobs: dict[str, Any]) -> str:
    return "-".join([method, *(f"{name}={value}" for name, value in knobs.items())])


def small(method: str, knobs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name in METHODS[method].SPEC.Config.model_fields} | knobs


def case(name: str, *values: Any, slow: bool) -> Any:
    return pytest.param(*values, id=name, marks=[pytest.mark.slow] if slow else [])


OWN = [(method, knobs) for method in METHODS for knobs in own_points(method)]
POINTS = [case(title(method, knobs), method, small(method, knobs), slow=len(knobs) > 1) for method, knobs in OWN]
SINGLE = {title(method, knobs) for method, knobs in OWN if len(knobs) < 2}
# Where at most one knob is changed, each term that can be off.
WITHOUT = [
    case(f"{name}-without {off}", name, method, small(method, knobs), off, slow=bool(knobs))
    for method, knobs in OWN
    for name, spec in [(title(method, knobs), METHODS[method].SPEC)]
    for off in spec.existing(spec.Config(**knobs))
    if off not in spec.always and len(knobs) < 2
]


def spec_of(method: str, knobs: dict[str, Any], off: str | None = None, **changes: Any) -> Any:
    """The run with every term on that exists with these knobs, but for `off`."""
    declared = METHODS[method].SPEC
    existing = declared.existing(declared.Config.model_validate(knobs))
    optional = {term: 1.0 for term in existing if not declared.weights[term]}
    return train_spec(method, knobs=knobs, weights=optional | ({off: 0.0} if off else {}), **changes)


class Work(TorchDispatchMode):
    """Counts the numbers that are computed, for what the flop counter, which knows products only, leaves out."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        self.numbers += sum(tensor.numel() for tensor in held(result) if tensor.is_floating_point())
        return result


def late_step(spec: Any) -> tuple[Stepper, dict[str, float], tuple[int, int]]:
    """A run after two late steps; of the second, which finds what is kept from step to step, the terms and the work.

    Work: floating-point operations, and numbers computed.
    """
    # At rate zero, so that the first step leaves the same weights whatever its terms are: some losses' cost depends on
    # what they find.
    run = stepper(spec.model_copy(update={"optim": spec.optim.model_copy(update={"lr": 0.0})}))
    # Views that no active term needs are not in the batch, as in a run. A term that is not finite or not active raises.
    batches = [batch(0, needed(spec))]
    run(LATE - 1, batches)
    with FlopCounterMode(display=False) as flops, Work() as work:
        terms, _ = run(LATE, batches)
    return run, terms, (flops.get_total_flops(), work.numbers)


@lru_cache(maxsize=2)  # tests of one point follow each other
def work_of_all(name: str) -> tuple[int, int]:
    """The work of a late step with all terms."""
    method, knobs = next(values for values in OWN if title(*values) == name)
    return late_step(spec_of(method, small(method, knobs)))[2]


def check(run: Stepper, terms: dict[str, float]) -> None:
    """All active terms are there, and every parameter has a gradient that should have one."""
    declared = METHODS[run.spec.method].SPEC
    active = declared.active(run.spec.weights)
    assert list(terms) and set(terms) == set(active)
    idle = tuple(declared.idle(declared.Config.model_validate(run.spec.knobs), active))
    for name, parameter in run.method.named_parameters():
        if name.startswith(idle):
            assert parameter.grad is None, f"{name} is declared idle"
        elif parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), f"{name} gets no gradient"


def test_every_choice_of_a_knob_is_met() -> None:
    class Config(Knobs):
        flag: bool = False
        kind: Literal["a", "b", "c"] = "a"
        rate: float = 1.0

    assert choices(Config) == {"flag": [True], "kind": ["b", "c"]}

    class Other(Config):
        kind: Literal["d", "e"] = "d"

    assert owned(Other) - owned(Config) == {(Other, "kind")}
    assert list(points(Config)) == [
        {}, {"flag": True}, {"kind": "b"}, {"kind": "c"}, {"flag": True, "kind": "b"}, {"flag": True, "kind": "c"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_spec_holds_together(name: str) -> None:
    spec = METHODS[name].SPEC
    assert spec.name == name
    for knobs in points(spec.Config):
        config = spec.Config(**knobs)
        views = spec.views(config) if callable(spec.views) else spec.views
        assert set(spec.existing(config)) <= set(views) <= set(spec.weights)
        assert set().union(*views.values()) <= set(VIEWS)
        assert all("target" in names for names in views.values() for name in names if name.startswith("target."))
    assert set(spec.always) <= set(spec.weights)
    assert {*spec.requires, *(term for others in spec.requires.values() for term in others)} <= set(spec.weights)
    assert all(weight >= 0 for weight in spec.weights.values())
    for term in spec.always:
        with pytest.raises(UserError, match=f"weights.{term}"):
            spec.check({**spec.weights, term: 0.0}, "weights")


@pytest.mark.parametrize(("method", "knobs"), POINTS)
def test_terms_are_declared_and_finite_and_gradients_are_where_they_should_be(
    method: str, knobs: dict[str, Any]
) -> None:
    run, terms, _ = late_step(spec_of(method, knobs))
    check(run, terms)


@pytest.mark.parametrize(("name", "method", "knobs", "off"), WITHOUT)
def test_weight_zero_takes_a_term_away_with_its_views_and_cost(
    name: str, method: str, knobs: dict[str, Any], off: str
) -> None:
    spec = spec_of(method, knobs, off)
    declared = METHODS[method].SPEC
    active = declared.active(spec.weights)
    assert off not in active
    views = declared.views(declared.Config.model_validate(spec.knobs)) if callable(declared.views) else declared.views
    assert needed(spec) == sorted(set().union(*(views[term] for term in active)))
    run, terms, (fewer, less) = late_step(spec)
    check(run, terms)
    flops, numbers = work_of_all(name)
    assert fewer <= flops and less < numbers


@pytest.mark.parametrize(("method", "knobs"), [point for point in POINTS if point.id in SINGLE])
def test_no_operator_is_used_that_is_not_deterministic_on_cuda(method: str, knobs: dict[str, Any]) -> None:
    spec = spec_of(method, knobs)
    run, batches = stepper(spec), [batch(0, needed(spec))]
    run(LATE - 1, batches)  # fills what is kept from step to step
    with as_on_cuda() as found:
        run(LATE, batches)
    assert "convolution_backward" in found.seen and not found.objections


@pytest.mark.parametrize("method", LABELLING)
def test_the_supervised_term_falls_by_half_on_a_repeated_batch(method: str) -> None:
    spec = spec_of(method, small(method, {}), optim={"lr": 3e-3, "schedule": "constant"})
    run = stepper(spec)
    repeated = [batch(0, needed(spec))]
    values = [run(index, repeated)[0]["seg"] for index in range(12)]
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_and_two_steps_are_four_bit_by_bit(method: str, optimizer: str, tmp_path: Any) -> None:
    spec = spec_of(method, small(method, {}), optim={"name": optimizer, "warmup_iterations": 3})
    whole = stepper(spec)
    steps(whole, 0, 4)

    first = stepper(spec)
    steps(first, 0, 2)
    save_resume(tmp_path, 2, first.method, first.optimizers, {"note": "kept"})
    second = stepper(spec)
    for tensor in second.method.state_dict().values():
        tensor.zero_()  # all that changes must come from the checkpoint
    assert load_resume(tmp_path, second.method, second.optimizers) == (2, {"note": "kept"})
    steps(second, 2, 4)
    assert equal(tensors(second.method), tensors(whole.method))


@pytest.mark.parametrize(("method", "knobs"), POINTS)
def test_all_tensors_of_a_method_are_in_its_state(method: str, knobs: dict[str, Any]) -> None:
    run = stepper(spec_of(method, knobs))
    steps(run, 0, 1)
    saved = set(run.method.state_dict())
    for prefix, module in run.method.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_"):  # torch's own tables of parameters, buffers and submodules
                assert not list(held(value)), f"{prefix}.{name} holds a tensor outside the state"
    # Constants may stay out: they are made anew, equal for every seed, and never change.
    if constants := {name: buffer for name, buffer in run.method.named_buffers() if name not in saved}:
        fresh = dict(stepper(spec_of(method, knobs), seed=1).method.named_buffers())
        assert equal(constants, {name: fresh[name] for name in constants})


def held(value: Any) -> Iterator[torch.Tensor]:
    """Tensors inside plain containers."""
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for entry in value.values() for tensor in held(entry))
    elif isinstance(value, list | tuple | set):
        yield from (tensor for entry in value for tensor in held(entry))


@pytest.mark.parametrize("method", LABELLING)  # a translator's rates are its own knobs
def test_at_rate_zero_the_predictors_parameters_stay(method: str) -> None:
    spec = spec_of(method, small(method, {}))
    spec = spec.model_copy(update={"optim": spec.optim.model_copy(update={"lr": 0.0})})
    run = stepper(spec)
    before = {name: parameter.clone() for name, parameter in run.method.predictor().named_parameters()}
    steps(run, 0, 2)
    assert equal(before, dict(run.method.predictor().named_parameters()))
