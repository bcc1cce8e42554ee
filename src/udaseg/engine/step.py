"""One training step: the terms that a method yields are checked, weighted and propagated back; then optimizers step."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from udaseg.data.batches.streams import Batch
from udaseg.engine.optimizers import Optimizers, rate_factor, scale_rates
from udaseg.errors import UserError
from udaseg.machine.out_of_memory import explain_out_of_memory
from udaseg.methods.base import Method, Step
from udaseg.runs.spec import TrainSpec
from udaseg.seeding import seed_for

Numbers = dict[str, float]


class Stepper:
    """Builds a method's optimizers and steps them. A step depends on nothing but its index and its batches."""

    def __init__(self, spec: TrainSpec, method: Method, device: torch.device) -> None:
        self.spec, self.method, self.device = spec, method, device
        self.weights = method.SPEC.active(spec.weights)
        self.optimizers = method.optimizers(Optimizers(spec.optim))

    def __call__(self, index: int, batches: Sequence[Batch]) -> tuple[Numbers, Numbers]:
        """Step number `index` (from 0), on the mean gradient of `batches`.

        Returns the unweighted terms and the method's diagnostics, each the mean over the batches.

        Raises:
            UserError: a term is not finite or not declared, or memory runs out; the message names it and the iteration.
                Nothing is updated then, unless memory runs out in the update itself. Or a diagnostic is not finite.
        """
        # torchvision's transforms and dropout draw from the global generator.
        torch.manual_seed(seed_for(self.spec.seed, "step.global", index))
        generator = torch.Generator().manual_seed(seed_for(self.spec.seed, "step.generator", index))
        step = Step(index, self.spec.train.iterations, self.weights, generator)
        factor = rate_factor(self.spec.optim, index, self.spec.train.iterations)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
            scale_rates(optimizer, factor)
        terms: Numbers = {}
        carries = [self._backward(batch, step, 1 / len(batches), terms) for batch in batches]
        with self._explained("updating the networks", index, batches[0]):
            for optimizer in self.optimizers.values():
                self._update(optimizer)
            self.method.after_step(carries, step)
        return terms, self._diagnostics(step)

    def _backward(self, batch: Batch, step: Step, share: float, sums: Numbers) -> Any:
        """Run the method's generator, with one backward pass for each group of terms; return what it returns."""
        with self._explained("taking in the images", step.index, batch):
            batch = batch.to(self.device)
        losses = self.method.losses(batch, step)
        before = "at the start of the step"
        while True:
            try:
                with (
                    self._explained(f"computing the terms {before}", step.index, batch),
                    torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.train.precision == "bf16"),
                ):
                    terms = next(losses)
            except StopIteration as stop:
                return stop.value
            total = self._weighted_sum(terms, step.index, share, sums)
            names = ", ".join(terms)
            if total is not None and total.requires_grad:
                with self._explained(f"propagating back {names}", step.index, batch):
                    total.backward()
            before = f"after {names}"
            del terms, total  # otherwise this group's graph would exist until the next one is built

    def _explained(self, doing: str, index: int, batch: Batch) -> AbstractContextManager[None]:
        shapes = {"source": batch.source.image.shape, "target": batch.target.image.shape}
        crops = ", ".join(
            f"{name} {shape[0]} crops of {shape[2]} x {shape[3]}" for name, shape in shapes.items() if len(shape) == 4
        )
        return explain_out_of_memory(
            f"at iteration {index} on {self.device} of {self.spec.method}, {doing}: {crops}, "
            f"{self.spec.train.precision}",
            "The last checkpoint is kept. If other processes used the memory, run the same command again. Otherwise "
            "lower train.source.batch and train.target.batch (and raise train.accumulate as much), train.source.crop "
            "and train.target.crop, or set train.precision: bf16",
        )

    def _weighted_sum(self, terms: dict[str, Tensor], index: int, share: float, sums: Numbers) -> Tensor | None:
        """`share` times the weighted sum of a group of terms; checks their values and adds them to `sums`."""
        if undeclared := sorted(set(terms) - set(self.weights)):
            raise UserError(
                f"iteration {index}: {self.spec.method} yields the terms {undeclared}, but only "
                f"{sorted(self.weights)} are active; declare them in its SPEC, and yield a term only where step.active "
                "says so"
            )
        total = None
        for name, value in terms.items():
            number = float(value.detach())
            if not math.isfinite(number):
                raise UserError(
                    f"iteration {index}: the loss term '{name}' of {self.spec.method} is {number}; the last checkpoint "
                    "is kept. Lower optim.lr or the term's weight, or look at the images and labels it is made from"
                )
            sums[name] = sums.get(name, 0.0) + share * number
            weighted = value * (self.weights[name] * share)
            total = weighted if total is None else total + weighted
        return total

    def _diagnostics(self, step: Step) -> Numbers:
        """The mean of each diagnostic; all must be finite, because the history is JSON, which has no NaN."""
        means = {name: sum(map(float, values)) / len(values) for name, values in step.logs.items()}
        for name, number in means.items():
            if not math.isfinite(number):
                raise UserError(
                    f"iteration {step.index}: the diagnostic '{name}' of {self.spec.method} is {number}; the last "
                    "checkpoint is kept. Log it only where it is defined: a mean over no pixels is not"
                )
        return means

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the optimizer's gradients by their norm and step, if any parameter has a gradient."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            if self.spec.optim.clip_gradient:
                torch.nn.utils.clip_grad_norm_(parameters, self.spec.optim.clip_gradient)
            optimizer.step()
