"""Which classes of a labelled image are kept when it is mixed with another picture (DiGA, CVPR 2023, arXiv 2304.02222).

CrDoMix shows these classes of a source image in its own colours and all others in the target's; the cross mix of
self-training pastes them on a target image. `mixing.mix` does the mixing.
"""

import torch
from torch import Tensor

from udaseg.ops.losses import IGNORE
from udaseg.ops.mixing import class_mask


def draw_kept(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """For each image a random half, rounded down, of the classes that are there; 255 counts as one of them.

    With one class that is none: nothing of the image is kept, as released.

    Args:
        labels: (B, H, W) int64.
        generator: on the CPU.

    Returns:
        B tensors (n,) int64, without repetition.

    Raises:
        ValueError: labels of another shape.
    """
    if labels.dim() != 3:
        raise ValueError(f"labels (B, H, W) expected, found {tuple(labels.shape)}")
    chosen = []
    for label in labels:
        classes = label.unique()
        order = torch.randperm(len(classes), generator=generator)
        chosen.append(classes[order[: len(classes) // 2].to(classes.device)])
    return chosen


def kept_mask(labels: Tensor, chosen: list[Tensor]) -> Tensor:
    """Where labels (B, H, W) are among the classes chosen for their image, or 255, which is always kept, as released.

    So an image without any label is kept whole. The release mixes that of its last step into a batch without labels.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: classes of another number of images.
    """
    return class_mask(labels, chosen) | (labels == IGNORE)
