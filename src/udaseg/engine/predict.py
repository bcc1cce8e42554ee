"""From images to class probabilities and labels, following an evaluation protocol."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from udaseg.config.evaluation import Protocol
from udaseg.config.training import Network
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import load_tensors
from udaseg.errors import UserError
from udaseg.machine.out_of_memory import explain_out_of_memory
from udaseg.nets.base import SegmentationNet
from udaseg.nets.build import build_network
from udaseg.ops.maps import resize

PLAIN = Protocol(window=None, flip=False, scales=[1.0], fusion="mean", aggregate=None)


def load_predictor(network: Network, classes: int, path: Path, device: torch.device) -> SegmentationNet:
    """The network with the weights in `path`, in evaluation mode; UserError if they belong to another network."""
    tensors = load_tensors(path)
    levels = 2 if any(name.startswith("aux_head.") for name in tensors) else 1
    net = build_network(network, classes, levels, seed=0)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path}: these are not the weights of a {network.name} with {classes} classes: {error}"
        ) from None
    return net.eval().to(device)


@torch.no_grad()
def predict_scores(net: nn.Module, image: Tensor, size: tuple[int, int], protocol: Protocol) -> Tensor:
    """Scores (B, C, *size) of an image (B, 3, H, W) at the network's input size.

    Logits are resized to `size` first. With one pass they are the scores; with several (scales, flip), the scores are
    the mean of the passes' probabilities, or the highest logits if `fusion` is "max".

    Raises:
        UserError: out of memory; the message says what to lower in the protocol.
    """
    height, width = image.shape[-2:]
    window = "no window" if protocol.window is None else "windows of {} x {}".format(*protocol.window.size)
    with explain_out_of_memory(
        f"on {image.device}, predicting an image of {height} x {width} at the scales {protocol.scales} with {window}",
        "Set or lower the protocol's window.size (evaluate.protocol or labels.protocol), or lower its scales",
    ):
        return _fused(net, image, size, protocol)


def _fused(net: nn.Module, image: Tensor, size: tuple[int, int], protocol: Protocol) -> Tensor:
    passes = [
        (scale, mirrored) for scale in protocol.scales for mirrored in ([False, True] if protocol.flip else [False])
    ]
    total = None
    for scale, mirrored in passes:
        shape = (round(image.shape[-2] * scale), round(image.shape[-1] * scale))
        view = image if scale == 1 else functional.interpolate(image, shape, mode="bilinear", antialias=True)
        logits = _logits(net, view.flip(-1) if mirrored else view, protocol)
        logits = resize(logits.flip(-1) if mirrored else logits, size)
        if protocol.fusion == "max":
            total = logits if total is None else torch.maximum(total, logits)
        else:
            scores = logits if len(passes) == 1 else logits.softmax(1) / len(passes)
            total = scores if total is None else total + scores
    assert total is not None
    return total


def _logits(net: nn.Module, image: Tensor, protocol: Protocol) -> Tensor:
    """Logits of the whole image, or the mean logits of overlapping windows at the image's size."""
    height, width = image.shape[-2:]
    if protocol.window is None or (height <= protocol.window.size[0] and width <= protocol.window.size[1]):
        logits: Tensor = net(image).logits
        return logits
    (tall, wide), (down, along) = protocol.window.size, protocol.window.stride
    total, count = None, image.new_zeros(1, 1, height, width)
    for top in _starts(height, tall, down):
        for left in _starts(width, wide, along):
            part = image[..., top : top + tall, left : left + wide]
            logits = resize(net(part).logits, part.shape[-2:])
            total = image.new_zeros(len(image), logits.shape[1], height, width) if total is None else total
            total[..., top : top + tall, left : left + wide] += logits
            count[..., top : top + tall, left : left + wide] += 1
    assert total is not None
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Start positions of windows that cover `length`; the last window ends with it."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def predictions(
    net: nn.Module, prepared: PreparedSet, split: str, protocol: Protocol, device: torch.device
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, predicted label and true label, both (H, W) uint8 at native size, of each image of a split.

    The network's mode is restored when the generator ends.
    """
    training = net.training
    net.eval()
    try:
        for name in prepared.names(split):
            label = prepared.native_label(split, name)
            image = to_tensor(prepared.image(split, name)).to(device)
            found = predict_scores(net, image, (label.shape[0], label.shape[1]), protocol).argmax(1)[0]
            yield name, found.to(torch.uint8).cpu().numpy(), label
    finally:
        net.train(training)


def to_tensor(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8 as (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
