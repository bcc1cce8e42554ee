"""Optimizers by the run's settings, and the SGD that the field's released code runs unintentionally."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.nets.base import SegmentationNet
from udaseg.nets.build import parameter_groups, released_listings
from udaseg.ops.schedules import poly, warmup

if TYPE_CHECKING:
    from udaseg.config.training import Optim


class RepeatedSGD(torch.optim.Optimizer):
    """SGD with momentum that applies each group's update `repeats` times a step, on one momentum buffer.

    AdaptSegNet, CRST and ProDA list each backbone weight several times in its group. The SGD of that time looped over
    the list, so it moved such a weight several times a step, with one gradient and one buffer: about `repeats` times
    the nominal learning rate. (Today's SGD gives the copies separate buffers in the first step.) With one repeat this
    is bitwise torch.optim.SGD.

    Args:
        groups: parameters, or groups of them with their own settings, "repeats" among these.
        lr: learning rate.
        momentum: share of the buffer that is kept.
        weight_decay: this times the weight is added to the gradient.
        repeats: updates in each step.
    """

    def __init__(
        self,
        groups: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        repeats: int = 1,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "repeats": repeats})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Raises:
            ValueError: a closure is given."""
        if closure is not None:
            raise ValueError("RepeatedSGD evaluates no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    for _ in range(group["repeats"]):
                        self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = gradient.add(parameter, alpha=group["weight_decay"]) if group["weight_decay"] else gradient
        if group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
            else:
                state["momentum_buffer"] = direction.clone()
            direction = state["momentum_buffer"]
        parameter.add_(direction, alpha=-group["lr"])


class Optimizers:
    """Makes the optimizers that methods ask for (`methods.base.OptimizerFactory`), by the run's `optim` settings.

    Adam and AdamW are the fused ones. They are fast, and their square root is correctly rounded; MKL's, which the
    others use, has a wrong last bit for one number in five, and for other numbers on other makers' CPUs.
    """

    def __init__(self, settings: "Optim") -> None:
        self.settings = settings

    def network(self, net: SegmentationNet) -> torch.optim.Optimizer:
        """Optimizer of a segmentation network: backbone at the base rate, heads at `head_lr_factor` times it.

        Raises:
            UserError: repeated updates are requested with another optimizer than SGD.
        """
        settings = self.settings
        released = settings.backbone_lr_multiplicity == 3
        if released and settings.name != "sgd":
            raise UserError(
                f"optim.backbone_lr_multiplicity: 3 works with sgd only, but optim.name is '{settings.name}'; use 1"
            )
        return self._made([*backbone_groups(net, released), self._as_head(parameter_groups(net)["head"])])

    def module(self, module: nn.Module) -> torch.optim.Optimizer:
        """Optimizer of what a method has beside its network (projections, selectors): at the rate of the heads."""
        return self._made([self._as_head(list(module.parameters()))])

    def adam(self, module: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.Optimizer:
        """Adam, by default with the betas with which the papers train discriminators."""
        return _kept_in_layout(torch.optim.Adam(module.parameters(), lr=lr, betas=betas, fused=True))

    def _as_head(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        return {"params": parameters, "lr": self.settings.lr * self.settings.head_lr_factor}

    def _made(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.name == "adamw":
            made = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
            return _kept_in_layout(made)
        return RepeatedSGD(groups, settings.lr, settings.momentum, settings.weight_decay)


def _kept_in_layout(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """State loaded into a fused optimizer gets the strides of its parameters, which the optimizer relies on."""

    def lay_out(loaded: torch.optim.Optimizer) -> None:
        for parameter, state in loaded.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    optimizer.register_load_state_dict_post_hook(lay_out)
    return optimizer


def backbone_groups(net: SegmentationNet, released: bool) -> list[dict[str, Any]]:
    """The backbone's parameters as groups: one, or with `released` one for each number of repeats."""
    if not released:
        return [{"params": parameter_groups(net)["backbone"]}]
    listings = released_listings(net)
    named = dict(net.named_parameters())
    return [
        {"params": [named[name] for name, times in listings.items() if times == repeats], "repeats": repeats}
        for repeats in sorted({times for times in listings.values() if times})
    ]


def rate_factor(settings: "Optim", iteration: int, iterations: int) -> float:
    """Factor of all learning rates at `iteration` (from 0) of a run of `iterations`."""
    length = settings.schedule_iterations or iterations
    decay = poly(iteration, length, settings.power) if settings.schedule == "poly" else 1.0
    return decay * warmup(iteration, settings.warmup_iterations)


def scale_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its initial one."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
