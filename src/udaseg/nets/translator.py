"""A network that gives an image the look of another domain and keeps its geometry: a small version of CycleGAN's."""

import re
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from udaseg.errors import UserError

MARGIN = 0.05  # of the colour range on each side, so that black and white have finite logits


def conv_norm(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution without bias, and instance normalisation, as a GroupNorm that is fast also with channels last."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.GroupNorm(width, width))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(width, width)
        self.conv2 = conv_norm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        raised: Tensor = x + self.conv2(self.conv1(x).relu())
        return raised


class Enlarge(nn.Module):
    """Every pixel repeated to 2 x 2, cut to a size, then a 3x3 convolution: no chequerboard pattern.

    Pixels are not repeated by `interpolate`, because its backward pass is not deterministic on CUDA.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = conv_norm(channels, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        repeated = x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]
        enlarged: Tensor = self.conv(repeated).relu()
        return enlarged


class Generator(nn.Module):
    """Images to images of the same size: CycleGAN's residual generator, changing the logits of colours.

    Zhu et al., ICCV 2017. A convolution to `width` channels, two of stride 2, `blocks` residual blocks, two
    enlargements and a convolution to three channels, which are added to the logits of the image's colours (the paper's
    network makes the colours themselves). The last convolution starts at zero, so an untrained generator changes
    nothing.

    Padding is with zeros, because the backward pass of the paper's reflection padding is not deterministic on CUDA. The
    convolutions at both ends are 3x3 (paper 7x7, for images of 256 pixels).

    Args:
        width: channels at full size; the lower resolutions have twice and four times as many (paper 64).
        blocks: residual blocks (paper 6 for images of 128 pixels, 9 from 256 on).
    """

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.stem = conv_norm(3, width)
        self.down1 = conv_norm(width, 2 * width, stride=2)
        self.down2 = conv_norm(2 * width, 4 * width, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks)))
        self.up2 = Enlarge(4 * width, 2 * width)
        self.up1 = Enlarge(2 * width, width)
        self.colours = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.colours.weight)
        self.colours.bias = nn.Parameter(torch.zeros(3))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], origin: str) -> Self:
        """The generator with these weights; its width and depth follow from their shapes.

        Args:
            tensors: a generator's `state_dict`.
            origin: where the tensors come from, for messages.

        Raises:
            UserError: they belong to another network.
        """
        stem = tensors.get("stem.0.weight")
        indices = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
        reason = "there is no stem.0.weight among them"
        if stem is not None and stem.dim() == 4 and len(stem):
            made = cls(width=len(stem), blocks=max(indices, default=-1) + 1)
            try:
                made.load_state_dict(dict(tensors))
            except RuntimeError as error:
                reason = str(error)
            else:
                return made
        raise UserError(
            f"{origin}: these are not the weights of an image translator ({reason}); name an earlier stage of the "
            "method cyclegan"
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1], H and W at least 5 -> the same."""
        full = self.stem(2 * images - 1).relu()
        half = self.down1(full).relu()
        quarter = self.blocks(self.down2(half).relu())
        raised = self.up2(quarter, (half.shape[-2], half.shape[-1]))
        change = self.colours(self.up1(raised, (full.shape[-2], full.shape[-1])))
        return _from_logits(_to_logits(images) + change.float())


def _to_logits(colours: Tensor) -> Tensor:
    return (MARGIN + (1 - 2 * MARGIN) * colours).logit()


def _from_logits(logits: Tensor) -> Tensor:
    return ((logits.sigmoid() - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)
