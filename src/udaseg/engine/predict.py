"""From images to class probabilities and labels, by a stated protocol."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from udaseg.config import Network, Protocol
from udaseg.engine.checkpoint import load_tensors
from udaseg.errors import UserError
from udaseg.nets.base import SegmentationNet
from udaseg.nets.build import build_network
from udaseg.ops.losses import resize

PLAIN = Protocol(window=None, flip=False, scales=[1.0], aggregate=None)


def load_predictor(network: Network, classes: int, path: Path, device: torch.device) -> SegmentationNet:
    """The network whose weights lie in `path`, in evaluation mode; UserError when they are another network's."""
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
def predict_scores(net: SegmentationNet, image: Tensor, size: tuple[int, int], protocol: Protocol) -> Tensor:
    """Scores (B, C, *size) of an image (B, 3, H, W) at the network's input size.

    Logits are resized to `size` before anything else; with one pass they are the scores themselves, with several
    (scales, flip) the scores are the mean of the passes' probabilities.

    With `protocol.aggregate` (PLCA's test-time aggregation) each pass, and in it each window, gives aggregated
    probabilities: these are averaged over the windows, resized to `size` and averaged over the passes. The scores of
    one pass are then their logarithms, of which softmax makes the probabilities again, as of any logits.
    """
    passes = [
        (scale, mirrored) for scale in protocol.scales for mirrored in ([False, True] if protocol.flip else [False])
    ]
    total = None
    for scale, mirrored in passes:
        shape = (round(image.shape[-2] * scale), round(image.shape[-1] * scale))
        view = image if scale == 1 else functional.interpolate(image, shape, mode="bilinear", antialias=True)
        logits = _windows(net, view.flip(-1) if mirrored else view, protocol)
        logits = resize(logits.flip(-1) if mirrored else logits, size)
        if protocol.aggregate is not None:
            logits = logits.log()  # they were probabilities; everywhere else, what comes of one pass are logits
        scores = logits if len(passes) == 1 else logits.softmax(1) / len(passes)
        total = scores if total is None else total + scores
    assert total is not None
    return total


def _windows(net: SegmentationNet, image: Tensor, protocol: Protocol) -> Tensor:
    """`_classified` of the whole image, or the mean of that of overlapping windows at the image's size."""
    height, width = image.shape[-2:]
    if protocol.window is None or (height <= protocol.window.size[0] and width <= protocol.window.size[1]):
        return _classified(net, image, protocol.aggregate)
    (tall, wide), (down, along) = protocol.window.size, protocol.window.stride
    total, count = None, image.new_zeros(1, 1, height, width)
    for top in _starts(height, tall, down):
        for left in _starts(width, wide, along):
            part = image[..., top : top + tall, left : left + wide]
            found = resize(_classified(net, part, protocol.aggregate), part.shape[-2:])
            total = image.new_zeros(len(image), found.shape[1], height, width) if total is None else total
            total[..., top : top + tall, left : left + wide] += found
            count[..., top : top + tall, left : left + wide] += 1
    assert total is not None
    return total / count


def _classified(net: SegmentationNet, image: Tensor, share: float | None) -> Tensor:
    """Logits (B, C, h, w) at the network's stride; with a share, probabilities after PLCA's test-time aggregation.

    As in the released script, from which PLCA's published scores are: the embedding is aggregated over the image and
    classified, then the predictions are aggregated over it; of either, 1 - `share` stays as it is.
    """
    outputs = net(image)
    if share is None:
        logits: Tensor = outputs.logits
        return logits
    from udaseg.ops.aggregation import aggregate_features, aggregate_predictions

    embedding = aggregate_features(outputs.features["embedding"], share)
    return aggregate_predictions(net.head.classify(embedding).softmax(1), share)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover `length`; the last one ends with it."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def to_tensor(image: np.ndarray) -> Tensor:
    """A picture (H, W, 3) uint8 as (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
