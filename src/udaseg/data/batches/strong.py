"""The strong view of a target crop (ProDA, CVPR 2021): flip, two random operations of FixMatch's pool, a grey square.

Pool and strengths are those of FixMatch (Sohn et al., NeurIPS 2020, table of RandAugment's transformations), in the
discrete levels of the code that ProDA builds on. That code follows PIL in making a cut-out one pixel wider and taller
in the picture than in the label map; this one does not.
"""

import torch
from torch import Generator, Tensor

from udaseg.ops.warp import Operation, Warp

POOL = (
    *("autocontrast", "brightness", "colour", "contrast", "equalise", "identity", "posterise"),
    *("rotate", "sharpness", "shear_x", "shear_y", "solarise", "translate_x", "translate_y"),
)
OPERATIONS = 2
LEVELS = 10  # levels 1 to 9 are drawn
GREY = 127 / 255
DEGREES, SHARE = 30.0, 0.3  # at the highest level: rotation; shear, and translation as a share of the side


def strong_view(image: Tensor, generator: Generator) -> tuple[Tensor, Warp]:
    """A random strong view of a weak one, and what happened to its geometry.

    Colours are changed first, in the order drawn; the geometry follows in a single resampling. The released code
    applies all operations in the order drawn, so that its colour operations also measure and change the grey that
    geometric ones leave at the border. Here that grey stays grey.

    Args:
        image: (3, H, W) float32, RGB in [0, 1].

    Returns:
        The view (3, H, W) float32 in [0, 1], grey outside the image and in the cut-out, and the `Warp` that carries
        maps of `image` onto it.
    """
    height, width = image.shape[1:]
    # The same count of random numbers, whichever operations are drawn.
    chances = torch.rand(3 + 4 * OPERATIONS, generator=generator, dtype=torch.float64)
    flip, centre_x, centre_y, *others = chances.tolist()
    operations: list[Operation] = [("flip", 0.0)] if flip < 0.5 else []
    for index in range(OPERATIONS):
        which, applied, strength, side = others[4 * index : 4 * index + 4]
        if applied >= 0.5:
            continue
        name, level = POOL[int(which * len(POOL))], 1 + int(strength * (LEVELS - 1))
        geometric = _geometric(name, level / LEVELS * (1 if side < 0.5 else -1), (height, width))
        if geometric is None:
            image = _photometric(image, name, level)
        else:
            operations.append(geometric)
    warp = Warp(tuple(operations), cutout_around(centre_x * width, centre_y * height, (height, width)))
    strong, valid = warp.apply(image, 1, "bilinear")
    return strong.masked_fill(~valid, GREY), warp


def cutout_around(x: float, y: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a square around (x, y), a third of the shorter side of `size` (height, width) long.

    As released: a square that would begin outside the image is moved inwards; one that ends outside is cut off.
    """
    height, width = size
    side = min(size) // 3
    x0, y0 = max(0.0, x - side / 2), max(0.0, y - side / 2)
    return int(x0), int(y0), int(min(width, x0 + side)), int(min(height, y0 + side))


def _geometric(name: str, share: float, size: tuple[int, int]) -> Operation | None:
    """A geometric operation at `share` (-1 to 1) of its highest level; None if `name` is not geometric."""
    height, width = size
    if name == "rotate":
        return "rotate", share * DEGREES
    if name == "shear_x":
        return "shear_x", share * SHARE
    if name == "shear_y":
        return "shear_y", share * SHARE
    if name == "translate_x":
        return "translate_x", float(int(share * SHARE * width))
    if name == "translate_y":
        return "translate_y", float(int(share * SHARE * height))
    return None


def _photometric(image: Tensor, name: str, level: int) -> Tensor:
    """Colours of an image (3, H, W) in [0, 1] at a level from 1 to 9, in 8 bits as in the released code."""
    if name == "identity":
        return image
    # Imported late: torchvision takes two seconds, and importing the data package should not.
    from torchvision.transforms.v2 import functional as colours

    eight_bit = colours.to_dtype(image, torch.uint8, scale=True)
    factor = 0.05 + 0.9 * level / LEVELS
    if name == "autocontrast":
        eight_bit = colours.autocontrast(eight_bit)
    elif name == "brightness":
        eight_bit = colours.adjust_brightness(eight_bit, factor)
    elif name == "colour":
        eight_bit = colours.adjust_saturation(eight_bit, factor)
    elif name == "contrast":
        eight_bit = colours.adjust_contrast(eight_bit, factor)
    elif name == "equalise":
        eight_bit = colours.equalize(eight_bit)
    elif name == "posterise":
        eight_bit = colours.posterize(eight_bit, bits=4 + 4 * level // LEVELS)
    elif name == "sharpness":
        eight_bit = colours.adjust_sharpness(eight_bit, factor)
    elif name == "solarise":
        eight_bit = colours.solarize(eight_bit, threshold=256 - 256 * level // LEVELS)
    else:
        raise ValueError(f"expected one of {', '.join(POOL)}, found {name!r}")
    changed: Tensor = colours.to_dtype(eight_bit, torch.float32, scale=True)
    return changed
