"""Networks beside the trained one: its moving average, and one that never changes."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from udaseg.nets.base import Outputs, SegmentationNet

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class EmaTeacher(nn.Module):
    """A copy of a network that follows it as an exponential moving average and gets no gradient. Part of the state.

    Args:
        net: is copied, so the teacher starts equal to it.
        buffers: "copy": BatchNorm statistics are the student's after every update (ProDA, CPSL); "own": they come from
            the teacher's own forward passes (DAFormer, DiGA, the memory bank).
        mode: the mode in which the network stays, whatever `train` is called with. "train_without_dropout": training
            mode except for dropout (DAFormer). A network whose BatchNorm policy is "eval" keeps that in every mode.
    """

    def __init__(
        self,
        net: SegmentationNet,
        buffers: Literal["copy", "own"],
        mode: Literal["eval", "train_without_dropout", "train"],
    ) -> None:
        super().__init__()
        if buffers not in ("copy", "own"):
            raise ValueError(f"buffers: 'copy' or 'own' expected, found {buffers!r}")
        if mode not in ("eval", "train_without_dropout", "train"):
            raise ValueError(f"mode: 'eval', 'train_without_dropout' or 'train' expected, found {mode!r}")
        self.net: SegmentationNet = deepcopy(net).requires_grad_(False)
        self.buffers_from, self.mode = buffers, mode
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.net.train(self.mode != "eval")
        if self.mode == "train_without_dropout":
            for module in self.net.modules():
                if isinstance(module, DROPOUTS):
                    module.eval()
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W), RGB in [0, 1] -> `Outputs` without a graph."""
        outputs: Outputs = self.net(images)
        return outputs

    @torch.no_grad()
    def update(self, student: nn.Module, keep: float) -> None:
        """teacher = keep * teacher + (1 - keep) * student, parameter by parameter; `keep` in [0, 1]."""
        ema_update(self.net, student, keep)
        if self.buffers_from == "copy":
            for kept, new in zip(self.net.buffers(), student.buffers(), strict=True):
                kept.copy_(new)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher = keep * teacher + (1 - keep) * student, parameter by parameter; `keep` in [0, 1]."""
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.mul_(keep).add_(other, alpha=1 - keep)


class Frozen(nn.Module):
    """A copy of a network that never changes: always in evaluation mode, without gradients, outside the state.

    PyTorch sees no parameters, buffers or submodules in it, so neither optimizers nor checkpoints hold it: it is
    built again from the same weights. It moves between devices with the module that it is part of.
    """

    net: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        object.__setattr__(
            self, "net", deepcopy(net).requires_grad_(False).eval()
        )  # bypasses the registration as a submodule

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.net._apply(fn, recurse)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """The network's outputs for `inputs`, without a graph."""
        return self.net(*inputs)
