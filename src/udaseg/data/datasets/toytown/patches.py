"""Toytown's classes, and a scene of it as coloured flat patches in street coordinates.

Metres; x to the right, y up, z along the street away from the camera, which stands at (eye_x, eye_y, 0) and looks along
+z. What is added later hides what was added earlier, so whoever adds things adds the farther ones first.
"""

import math
from collections.abc import Sequence

Colour = tuple[float, float, float]  # 0..1 RGB
Point = tuple[float, float, float]

NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic_light", "traffic_sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "bus", "bicycle",
)  # fmt: skip
(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN,
    VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, BUS, BICYCLE,
) = range(len(NAMES))  # fmt: skip

GROUND, TOP, FACING_LEFT, FACING_RIGHT, FRONT = range(5)  # which way a patch faces: decides its light
PLAIN, ASPHALT, PAVING, GRASS, PLASTER, BRICK, LEAF = range(7)  # textures
NEAR = 1.0  # nothing is nearer to the camera than this
GLASS: Colour = (0.16, 0.2, 0.25)
RUBBER: Colour = (0.07, 0.07, 0.08)

CIRCLE = [(math.cos(2 * math.pi * k / 14), math.sin(2 * math.pi * k / 14)) for k in range(14)]


def shade(colour: Colour, factor: float) -> Colour:
    return (min(1.0, colour[0] * factor), min(1.0, colour[1] * factor), min(1.0, colour[2] * factor))


class Patches:
    """The scene: patches in painting order, and apart from them the shadows that fall on the ground."""

    def __init__(self, eye_x: float, eye_y: float, sun_side: int) -> None:
        self.eye_x, self.eye_y = eye_x, eye_y
        self.sun_side = sun_side  # -1: the sun is on the left, 1: on the right
        self.points: list[Sequence[Point]] = []
        self.labels: list[int] = []
        self.colours: list[Colour] = []
        self.faces: list[int] = []
        self.textures: list[int] = []
        self.shadows: list[Sequence[Point]] = []

    def add(self, label: int, colour: Colour, points: Sequence[Point], face: int = FRONT, texture: int = PLAIN) -> None:
        self.points.append(points)
        self.labels.append(label)
        self.colours.append(colour)
        self.faces.append(face)
        self.textures.append(texture)

    def ground(
        self, label: int, colour: Colour, x: tuple[float, float], z: tuple[float, float],
        y: float = 0.0, texture: int = PLAIN, slant: float = 0.0,
    ) -> None:  # fmt: skip
        """A horizontal rectangle; `slant` moves its far edge sideways."""
        z0, z1 = max(z[0], NEAR), max(z[1], NEAR)
        if z1 > z0:
            far = (x[1] + slant, y, z1), (x[0] + slant, y, z1)
            self.add(label, colour, [(x[0], y, z0), (x[1], y, z0), *far], GROUND, texture)

    def side(
        self, label: int, colour: Colour, x: float, y: tuple[float, float], z: tuple[float, float],
        texture: int = PLAIN,
    ) -> None:  # fmt: skip
        """An upright rectangle along the street that faces the camera's side of it."""
        z0, z1 = max(z[0], NEAR), max(z[1], NEAR)
        if z1 > z0:
            face = FACING_RIGHT if x < self.eye_x else FACING_LEFT
            self.add(label, colour, [(x, y[0], z0), (x, y[1], z0), (x, y[1], z1), (x, y[0], z1)], face, texture)

    def front(
        self, label: int, colour: Colour, x: tuple[float, float], y: tuple[float, float], z: float,
        texture: int = PLAIN,
    ) -> None:  # fmt: skip
        """An upright rectangle across the street, facing the camera."""
        if z >= NEAR:
            self.add(
                label, colour, [(x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z), (x[1], y[0], z)], FRONT, texture
            )

    def disc(self, label: int, colour: Colour, x: float, y: float, z: float, rx: float, ry: float) -> None:
        self.add(label, colour, [(x + rx * c, y + ry * s, z) for c, s in CIRCLE])

    def limb(
        self, label: int, colour: Colour, start: tuple[float, float], end: tuple[float, float], thick: float, z: float
    ) -> None:
        """A bar of thickness `thick` from `start` to `end` (x, y) in the plane at z."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length * thick / 2, dx / length * thick / 2
        corners = (start, nx, ny), (end, nx, ny), (end, -nx, -ny), (start, -nx, -ny)
        self.add(label, colour, [(p[0] + ox, p[1] + oy, z) for p, ox, oy in corners])

    def shadow_disc(self, x: float, z: float, rx: float, rz: float) -> None:
        self.shadows.append([(x + rx * c, 0.0, max(NEAR, z + rz * s)) for c, s in CIRCLE])
