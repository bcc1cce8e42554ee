"""One optimisation step: what a method yields is checked, weighted and propagated back, then the optimisers step."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from udaseg.data.streams import Batch
from udaseg.engine.optimisers import Optimisers, rate_factor, scale_rates
from udaseg.errors import UserError
from udaseg.methods.base import Method, Step
from udaseg.seeding import seed_for
from udaseg.specs import TrainSpec

Numbers = dict[str, float]


class Stepper:
    """Steps a method, whose optimisers it makes. It keeps no state: a step is a function of its index and batches."""

    def __init__(self, spec: TrainSpec, method: Method, device: torch.device) -> None:
        self.spec, self.method, self.device = spec, method, device
        self.weights = method.SPEC.active(spec.weights)
        self.optimizers = method.optimizers(Optimisers(spec.optim))

    def __call__(self, index: int, batches: Sequence[Batch]) -> tuple[Numbers, Numbers]:
        """Step number `index` (from 0), on the mean gradient of `batches`.

        Returns the unweighted terms and the method's diagnostics, each the mean over the batches.

        Raises:
            UserError: a term is not finite or was not declared; names it and the iteration. Nothing is updated then.
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
        carries = [self._backward(batch.to(self.device), step, 1 / len(batches), terms) for batch in batches]
        for optimizer in self.optimizers.values():
            self._update(optimizer)
        self.method.after_step(carries, step)
        return terms, {name: sum(map(float, values)) / len(values) for name, values in step.logs.items()}

    def _backward(self, batch: Batch, step: Step, share: float, sums: Numbers) -> Any:
        """Run the method's generator: one backward for each group of terms it yields. Returns what it returns."""
        losses = self.method.losses(batch, step)
        while True:
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.train.precision == "bf16"):
                    terms = next(losses)
            except StopIteration as stop:
                return stop.value
            total = self._weighted_sum(terms, step.index, share, sums)
            if total is not None and total.requires_grad:
                total.backward()
            del terms, total  # else this group's graph would live on while the next one is built

    def _weighted_sum(self, terms: dict[str, Tensor], index: int, share: float, sums: Numbers) -> Tensor | None:
        """`share` times the weighted sum of a group of terms, whose values are checked and added to `sums`."""
        if undeclared := sorted(set(terms) - set(self.weights)):
            raise UserError(
                f"iteration {index}: {self.spec.method} yields the terms {undeclared}, active are only "
                f"{sorted(self.weights)}; declare them in its SPEC, and yield a term only where step.active says so"
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

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip (each optimiser's gradients by their own norm) and step, if any parameter got a gradient."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            if self.spec.optim.clip_gradient:
                torch.nn.utils.clip_grad_norm_(parameters, self.spec.optim.clip_gradient)
            optimizer.step()
