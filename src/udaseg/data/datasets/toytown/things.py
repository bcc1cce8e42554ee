"""What stands and moves in Toytown's street, apart from vehicles. A thing adds its patches from back to front."""

import math
from collections.abc import Sequence

from udaseg.data.datasets.toytown.patches import (
    BICYCLE,
    CIRCLE,
    FRONT,
    LEAF,
    PERSON,
    POLE,
    RIDER,
    RUBBER,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    Colour,
    Patches,
    shade,
)

# --------------------------------------------------------------------------------------------------- people, bicycles


def person(
    patches: Patches, clothes: tuple[Colour, Colour], skin: Colour, hair: Colour,
    x: float, z: float, height: float, stride: float,
) -> None:  # fmt: skip
    """Someone on foot; `stride` (-0.35…0.35 m) is how far the feet are apart, 0 stands."""
    top, trousers = clothes
    k = height / 1.75

    def limb(colour: Colour, u0: float, y0: float, u1: float, y1: float, thick: float) -> None:
        patches.limb(PERSON, colour, (x + u0 * k, y0 * k), (x + u1 * k, y1 * k), thick * k, z)

    patches.shadow_disc(x, z, 0.4, 0.25)
    limb(shade(top, 0.7), 0.2, 1.42, 0.24 + 0.5 * stride, 0.8, 0.13)
    limb(shade(trousers, 0.8), 0.08, 0.95, 0.1 - stride, 0.05, 0.19)
    limb(trousers, -0.08, 0.95, -0.1 + stride, 0.05, 0.19)
    limb(RUBBER, -0.1 + stride - 0.1, 0.04, -0.1 + stride + 0.12, 0.04, 0.09)
    body = ((-0.2, 0.85), (0.2, 0.85), (0.26, 1.45), (0.12, 1.5), (-0.12, 1.5), (-0.26, 1.45))
    patches.add(PERSON, top, [(x + u * k, y * k, z) for u, y in body])
    limb(shade(top, 0.85), -0.22, 1.42, -0.26 - 0.5 * stride, 0.82, 0.13)
    patches.disc(PERSON, hair, x, 1.64 * k, z, 0.145 * k, 0.17 * k)
    patches.disc(PERSON, skin, x + 0.02 * k, 1.6 * k, z, 0.115 * k, 0.14 * k)


def bicycle(patches: Patches, frame: Colour, x: float, z: float, squeeze: float) -> None:
    """A bicycle seen from the side, `squeeze` (0.4…1, negative: mirrored) times as long as it is from exactly there."""
    patches.shadow_disc(x, z, 0.9 * abs(squeeze), 0.2)

    def bar(u0: float, y0: float, u1: float, y1: float, thick: float = 0.075) -> None:
        patches.limb(BICYCLE, frame, (x + u0 * squeeze, y0), (x + u1 * squeeze, y1), thick, z)

    for u in (-0.55, 0.55):
        patches.disc(BICYCLE, RUBBER, x + u * squeeze, 0.37, z, 0.37 * abs(squeeze), 0.37)
        patches.disc(BICYCLE, (0.5, 0.5, 0.5), x + u * squeeze, 0.37, z, 0.27 * abs(squeeze), 0.29)
    bar(-0.55, 0.37, -0.15, 0.85)
    bar(-0.55, 0.37, 0.0, 0.33)
    bar(0.0, 0.33, -0.18, 0.95)
    bar(0.0, 0.33, 0.4, 0.85)
    bar(-0.15, 0.85, 0.4, 0.85)
    bar(0.55, 0.37, 0.38, 1.08)
    patches.limb(BICYCLE, RUBBER, (x - 0.32 * squeeze, 0.98), (x - 0.05 * squeeze, 0.98), 0.09, z)
    patches.limb(BICYCLE, RUBBER, (x + 0.26 * squeeze, 1.09), (x + 0.45 * squeeze, 1.09), 0.07, z)


def rider(
    patches: Patches, clothes: tuple[Colour, Colour], skin: Colour, helmet: Colour, frame: Colour,
    x: float, z: float, squeeze: float,
) -> None:  # fmt: skip
    """Someone riding a bicycle; `squeeze` as for the bicycle."""
    bicycle(patches, frame, x, z, squeeze)
    top, trousers = clothes

    def limb(colour: Colour, u0: float, y0: float, u1: float, y1: float, thick: float) -> None:
        patches.limb(RIDER, colour, (x + u0 * squeeze, y0), (x + u1 * squeeze, y1), thick, z)

    limb(shade(trousers, 0.8), -0.15, 1.02, 0.18, 0.7, 0.19)
    limb(shade(trousers, 0.8), 0.18, 0.7, 0.05, 0.28, 0.16)
    limb(trousers, -0.15, 1.02, 0.12, 0.6, 0.2)
    limb(trousers, 0.12, 0.6, -0.05, 0.2, 0.17)
    limb(top, -0.17, 0.98, 0.08, 1.52, 0.36)
    limb(shade(top, 0.8), 0.06, 1.45, 0.36, 1.12, 0.13)
    patches.disc(RIDER, skin, x + 0.17 * squeeze, 1.7, z, 0.13, 0.15)
    patches.disc(RIDER, helmet, x + 0.15 * squeeze, 1.78, z, 0.16, 0.12)


# --------------------------------------------------------------------------------------------------- posts and plants


def post(patches: Patches, metal: Colour, x: float, z: float, height: float, width: float) -> None:
    """A round post: lit on one flank, dark on the other."""
    patches.shadow_disc(x, z, 0.3, 0.2)
    patches.front(POLE, metal, (x - width / 2, x + width / 2), (0.0, height), z)
    patches.front(POLE, shade(metal, 0.7), (x + width * 0.15, x + width / 2), (0.0, height), z)


def lamp(patches: Patches, metal: Colour, x: float, z: float, reach: float) -> None:
    """A street lamp whose arm reaches over the road (negative: to the left)."""
    post(patches, metal, x, z, 6.2, 0.24)
    patches.limb(POLE, metal, (x, 6.1), (x + reach, 6.4), 0.2, z)
    patches.limb(POLE, (0.85, 0.85, 0.8), (x + reach * 0.7, 6.3), (x + reach * 1.25, 6.4), 0.26, z)


def sign(patches: Patches, metal: Colour, x: float, z: float, shape: str, colour: Colour) -> None:
    """A traffic sign of 0.9 m. Shapes: disc (red ring), order (filled disc), triangle, board."""
    post(patches, metal, x, z, 2.6, 0.2)
    y, white = 2.75, (0.93, 0.93, 0.9)
    if shape == "triangle":
        for size, fill in ((0.62, colour), (0.36, white)):
            corners = ((-0.9 * size, -0.52 * size), (0.9 * size, -0.52 * size), (0.0, size))
            patches.add(TRAFFIC_SIGN, fill, [(x + u, y + v, z) for u, v in corners])
    elif shape == "board":
        patches.front(TRAFFIC_SIGN, white, (x - 0.62, x + 0.62), (y - 0.45, y + 0.45), z)
        patches.front(TRAFFIC_SIGN, colour, (x - 0.55, x + 0.55), (y - 0.38, y + 0.38), z)
        patches.front(TRAFFIC_SIGN, white, (x - 0.35, x + 0.35), (y - 0.07, y + 0.07), z)
    else:
        patches.disc(TRAFFIC_SIGN, colour, x, y, z, 0.5, 0.5)
        if shape == "disc":
            patches.disc(TRAFFIC_SIGN, white, x, y, z, 0.34, 0.34)
        else:
            patches.limb(TRAFFIC_SIGN, white, (x, y - 0.28), (x, y + 0.28), 0.14, z)


def traffic_light(patches: Patches, metal: Colour, x: float, z: float, lit: int) -> None:
    """A traffic light; `lit` 0 red, 1 amber, 2 green."""
    post(patches, metal, x, z, 2.6, 0.22)
    patches.front(TRAFFIC_LIGHT, (0.09, 0.1, 0.1), (x - 0.32, x + 0.32), (2.4, 3.9), z)
    for k, colour in enumerate(((1.0, 0.15, 0.1), (1.0, 0.72, 0.1), (0.15, 0.95, 0.45))):
        bright = colour if k == lit else shade(colour, 0.28)
        patches.disc(TRAFFIC_LIGHT, bright, x, 3.64 - 0.48 * k, z, 0.19, 0.19)


def tree(
    patches: Patches, leaves: Colour, bark: Colour, x: float, z: float, height: float,
    blobs: Sequence[tuple[float, float, float]],
) -> None:  # fmt: skip
    """A tree with a crown of `blobs` (sideways, upwards, radius; in crown radii), lit from above."""
    radius = 0.27 * height
    patches.shadow_disc(x, z, radius * 0.9, radius * 0.8)
    patches.limb(VEGETATION, bark, (x, 0.0), (x, height * 0.6), 0.09 * height**0.8, z)
    middle = height - radius
    for u, v, size in sorted(blobs, key=lambda blob: blob[1]):
        colour = shade(leaves, 0.92 + 0.25 * v)
        lumpy = (1.0 + 0.14 * math.sin(5 * k + 9 * u) for k in range(len(CIRCLE)))
        patches.add(
            VEGETATION,
            colour,
            [(x + radius * (u + size * c * r), middle + radius * (v + size * s * r), z)
             for (c, s), r in zip(CIRCLE, lumpy, strict=True)],
            FRONT,
            LEAF,
        )  # fmt: skip
