"""Reading and writing image files without the formats' traps: nothing is clipped, scaled or guessed silently.

Pixels are taken as they are stored. An EXIF orientation is deliberately not applied: label maps carry none and are
drawn on the stored grid, so rotating the photograph would misalign it with its label map.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from udaseg.errors import UserError
from udaseg.runs.files import write_bytes

# What Pillow raises for files that are not images, damaged or truncated, depending on where the damage lies.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# Pillow stretches 2- and 4-bit grey to 0..255; dividing by these factors restores the stored ids.
STRETCH = {"L;2": 85, "L;4": 17}


def _load(path: Path, what: str) -> tuple[Image.Image, str]:
    """The decoded image and the layout in which its file stores pixels ("L;4", "RGB", "I;16B", …)."""
    try:
        with Image.open(path) as image:
            layout = str(image.tile[0][3]) if image.tile else ""
            image.load()
            return image, layout
    except FileNotFoundError:
        raise UserError(f"{what} {path}: there is no such file") from None
    except DAMAGE as error:
        reason = str(error).replace(str(path), "the file")
        raise UserError(
            f"{what} {path}: cannot be read ({reason}); the file is damaged, truncated or not an image: replace it"
        ) from None


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB.

    Grey is repeated to three channels, 16-bit values keep their high byte, and an alpha channel is dropped, whatever
    the opacity (game engines often write a meaningless alpha).

    Raises:
        UserError: unreadable, truncated, or more than 16 bits a channel, whose scale is unknown.
    """
    image, _ = _load(path, "image")
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"image {path}: 32-bit pixels have no known scale; save it with 8 or 16 bits a channel")
    return np.array(image.convert("RGB"))


def read_ids(path: Path) -> np.ndarray:
    """A label file as raw ids (H, W), integer: grey levels of 1 to 16 bits, or palette indices.

    Raises:
        UserError: unreadable, truncated, or a colour image, which has no ids.
    """
    image, layout = _load(path, "label map")
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise UserError(
            f"label map {path}: {image.mode} pixels, expected ids as grey levels or palette indices; "
            "if classes are written as colours, set encoding: colour"
        )
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    return np.asarray(image) // STRETCH.get(layout, 1)


def read_colours(path: Path) -> np.ndarray:
    """A label file as colours (H, W) int32, packed as 0xRRGGBB; palettes are looked up, alpha is dropped.

    Raises:
        UserError: unreadable, truncated, or a 16-bit image, which has no 24-bit colours.
    """
    image, layout = _load(path, "label map")
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in layout:
        raise UserError(f"label map {path}: 16 bits a channel or more, expected 8-bit colours (or set encoding: id)")
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W, 3) or (H, W) uint8 as a PNG, atomically; equal pixels give equal bytes with the same Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=4, optimize=False)
    write_bytes(path, file.getvalue())
