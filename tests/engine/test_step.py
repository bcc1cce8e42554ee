"""One optimisation step: what is refused, what is averaged, what is scaled, and what nothing may depend on."""

import math
from typing import Any, ClassVar

import pytest
import torch
from support.tiny import CPU, batch, equal, stepper, steps, tensors, train_spec

from udaseg.engine.step import Stepper
from udaseg.errors import UserError
from udaseg.methods.base import Context, Method, MethodSpec, Supervised, supervised


class ToyWeights(Supervised):
    extra: float = 0.5
    off: float = 1.0


class Toy(Method):
    """Yields what a test tells it to, once for each batch."""

    SPEC = MethodSpec(
        name="toy", Weights=ToyWeights, views={name: {"source"} for name in ("seg", "extra", "off")}
    )  # fmt: skip
    yields: ClassVar[Any] = None
    carries: ClassVar[list[Any]] = []

    def losses(self, batch, step):
        seg = supervised(self.net(batch.source.image).logits, batch.source)
        step.log("index", torch.tensor(float(batch.source.label[0, 0, 0])))
        yield from type(self).yields(seg, step)
        return float(seg.detach())

    def after_step(self, carries, step):
        self.carries.append(carries)


def toy(yields, **changes):
    spec = train_spec("source_only", **changes).model_copy(
        update={"method": "toy", "weights": {"seg": 1.0, "extra": 0.5, "off": 0.0}}
    )
    kind = type("Toy", (Toy,), {"yields": staticmethod(yields), "carries": []})
    context = Context(
        knobs=None, weights=kind.SPEC.active(spec.weights), classes=spec.classes, network=spec.network, seed=0
    )
    made = Stepper(spec, kind(context), CPU)
    made.method.train()
    return made


def gradients(run):
    return {name: parameter.grad for name, parameter in run.method.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_stops_before_anything_is_updated(value):
    run = toy(lambda seg, step: iter([{"seg": seg}, {"extra": seg.detach() * value}]))
    before = {name: parameter.clone() for name, parameter in run.method.named_parameters()}
    with pytest.raises(
        UserError, match=r"iteration 7: the loss term 'extra' of toy is -?(nan|inf); the last checkpoint"
    ):
        run(7, [batch(0)])
    assert equal(before, dict(run.method.named_parameters()))
    assert run.method.carries == []


@pytest.mark.parametrize("name", ["mystery", "off"])
def test_a_term_that_is_not_declared_or_not_active_is_refused(name):
    with pytest.raises(UserError, match=rf"iteration 3: toy yields the terms \['{name}'\], but only \['extra', 's"):
        toy(lambda seg, step: iter([{"seg": seg, name: seg}]))(3, [batch(0)])


def test_groups_and_their_sum_give_one_gradient_and_unweighted_terms():
    apart = toy(lambda seg, step: iter([{"seg": seg}, {"extra": 2 * seg.detach().requires_grad_()}]))
    together = toy(lambda seg, step: iter([{"seg": seg, "extra": 2 * seg}]))
    only = toy(lambda seg, step: iter([{"seg": seg}]))
    found = [run(0, [batch(0)])[0] for run in (apart, together, only)]
    assert found[0] == found[1] == {"seg": found[2]["seg"], "extra": 2 * found[2]["seg"]}
    for name, gradient in gradients(only).items():
        torch.testing.assert_close(gradients(together)[name], 2 * gradient)  # 1 * seg + 0.5 * (2 * seg)
        assert torch.equal(gradients(apart)[name], gradient)


def test_terms_without_a_gradient_and_empty_groups_are_no_backward():
    run = toy(lambda seg, step: iter([{}, {"extra": seg.detach()}]))
    assert run(0, [batch(0)])[0].keys() == {"extra"}
    assert not gradients(run)


def test_accumulated_batches_give_the_mean_gradient_terms_and_logs():
    # Frozen normalisation: else each batch would be normalised by statistics of its own.
    def make():
        return toy(lambda seg, step: iter([{"seg": seg}]), network={"norm": "eval"})

    runs, batches = [make(), make(), make()], [batch(0), batch(1)]
    (first, logs_first), (second, logs_second) = (run(0, [b]) for run, b in zip(runs, batches, strict=False))
    both, logs_both = runs[2](0, batches)
    assert both["seg"] == pytest.approx((first["seg"] + second["seg"]) / 2)
    assert logs_both["index"] == (logs_first["index"] + logs_second["index"]) / 2
    for name, gradient in gradients(runs[2]).items():
        torch.testing.assert_close(gradient, (gradients(runs[0])[name] + gradients(runs[1])[name]) / 2)
    assert len(runs[2].method.carries) == 1
    assert runs[2].method.carries[0] == pytest.approx([first["seg"], second["seg"]])


def test_gradients_are_clipped_to_the_norm():
    free, clipped = stepper(train_spec()), stepper(train_spec(optim={"clip_gradient": 1e-2}))
    for run in (free, clipped):
        run(0, [batch(0)])

    def norm(run):
        return torch.cat([gradient.flatten() for gradient in gradients(run).values()]).norm()

    assert norm(free) > 2e-2
    assert norm(clipped) == pytest.approx(1e-2, rel=1e-3)


def test_rates_follow_warm_up_and_poly():
    run = stepper(
        train_spec(
            "dann",
            knobs={"hidden": 16},
            optim={"warmup_iterations": 2, "power": 1.0, "lr": 1.0, "head_lr_factor": 10.0},
        )
    )

    def rates(index):
        run(index, [batch(0)])
        return [group["lr"] for optimizer in run.optimizers.values() for group in optimizer.param_groups]

    assert rates(0) == pytest.approx([1e-6, 1e-5, 1e-10])
    assert rates(1) == pytest.approx([0.99 * 0.5, 9.9 * 0.5, 0.99e-4 * 0.5], rel=1e-5)
    assert rates(50) == pytest.approx([0.5, 5.0, 0.5e-4])


@pytest.mark.parametrize("method", ["source_only", "adaptsegnet"])
def test_bf16_trains_near_fp32_and_keeps_weights_in_fp32(method):
    values = {}
    for precision in ("fp32", "bf16"):
        run = stepper(train_spec(method, train={"precision": precision}, optim={"schedule": "constant"}))
        values[precision] = [run(index, [batch(0)])[0] for index in range(6)]
        assert all(p.dtype == torch.float32 for p in run.method.parameters())
    assert values["bf16"] != values["fp32"]
    assert values["bf16"][0]["seg"] == pytest.approx(values["fp32"][0]["seg"], rel=2e-2)
    assert values["bf16"][-1]["seg"] < values["bf16"][0]["seg"]


def test_a_step_does_not_depend_on_what_was_drawn_before():
    spec = train_spec("dann", knobs={"hidden": 16})  # its dropout draws from the global generator
    runs = stepper(spec), stepper(spec)
    steps(runs[0], 0, 2)
    steps(runs[1], 0, 1)
    torch.rand(1000)
    steps(runs[1], 1, 2)
    assert equal(tensors(runs[0].method), tensors(runs[1].method))
    again = stepper(train_spec("dann", knobs={"hidden": 16}, seed=1), seed=0)
    steps(again, 0, 2)
    assert not equal(tensors(runs[0].method), tensors(again.method))


def test_generator_and_progress_are_functions_of_the_index():
    seen = []

    def look(seg, step):
        seen.append((step.progress, float(torch.rand(1, generator=step.generator))))
        return iter([])

    run = toy(look)
    for index in (5, 6, 5):
        run(index, [batch(0)])
    assert seen[0] == seen[2] != seen[1]
    assert seen[0][0] == 0.05
