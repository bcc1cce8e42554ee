"""Cars and buses of Toytown. A vehicle adds its patches from back to front."""

import math
from collections.abc import Sequence
from itertools import pairwise

from udaseg.data.datasets.toytown.patches import (
    BUS,
    CAR,
    CIRCLE,
    FACING_LEFT,
    FACING_RIGHT,
    FRONT,
    GLASS,
    NEAR,
    RUBBER,
    TOP,
    Colour,
    Patches,
    Point,
    shade,
)


class Vehicle:
    """Places points given in a vehicle's own coordinates: along (from the tail), across (from the middle), up."""

    def __init__(self, patches: Patches, label: int, x: float, z: float, heading: float, length: float) -> None:
        self.patches, self.label, self.length = patches, label, length
        self.x, self.z, self.sin, self.cos = x, z, math.sin(heading), math.cos(heading)

    def place(self, along: float, across: float, up: float) -> Point:
        along -= self.length / 2
        return (
            self.x + along * self.sin + across * self.cos,
            up,
            max(NEAR, self.z + along * self.cos - across * self.sin),
        )

    def face(self, colour: Colour, points: Sequence[Point], normal: tuple[float, float, float]) -> None:
        """Adds a face if its outward `normal` (along, across, up) looks towards the camera."""
        nx = normal[0] * self.sin + normal[1] * self.cos
        nz = normal[0] * self.cos - normal[1] * self.sin
        px, py, pz = points[0]
        if (self.patches.eye_x - px) * nx + (self.patches.eye_y - py) * normal[2] - pz * nz <= 0:
            return
        if normal[2] > 0.7:
            code = TOP
        elif abs(nz) > abs(nx):
            code = FRONT
        else:
            code = FACING_RIGHT if nx > 0 else FACING_LEFT
        self.patches.add(self.label, colour, points, code)

    def sides(self, colour: Colour, outline: Sequence[tuple[float, float]], across: float) -> None:
        """One outline of (along, up) on both flanks."""
        for sign in (-1.0, 1.0):
            self.face(colour, [self.place(a, sign * across, u) for a, u in outline], (0.0, sign, 0.0))

    def across(
        self, colour: Colour, start: tuple[float, float], end: tuple[float, float], half: tuple[float, float]
    ) -> None:
        """A strip from side to side between two (along, up) points of an outline that runs tail, roof, nose."""
        (a0, u0), (a1, u1) = start, end
        length = math.hypot(a1 - a0, u1 - u0)
        normal = (-(u1 - u0) / length, 0.0, (a1 - a0) / length)
        left, right = half
        self.face(
            colour,
            [self.place(a0, left, u0), self.place(a1, left, u1), self.place(a1, right, u1), self.place(a0, right, u0)],
            normal,
        )

    def wheels(self, positions: Sequence[float], radius: float, across: float) -> None:
        for along in positions:
            for size, colour in ((1.0, RUBBER), (0.5, (0.55, 0.56, 0.58))):
                self.sides(colour, [(along + size * radius * c, radius + size * radius * s) for c, s in CIRCLE], across)

    def shadow(self, half: float) -> None:
        corners = ((-0.1, -half), (-0.1, half), (self.length + 0.1, half), (self.length + 0.1, -half))
        self.patches.shadows.append([self.place(a, c * 1.12, 0.0) for a, c in corners])


def car(patches: Patches, paint: Colour, x: float, z: float, heading: float, tall: float) -> None:
    """A car of 4.2 m; `tall` (0.9 small car … 1.25 van) stretches the cabin upwards and backwards."""
    length, half, belt, roof = 4.2, 0.9, 0.95, 1.5 * tall
    van = max(0.0, tall - 1.0)
    body = Vehicle(patches, CAR, x, z, heading, length)
    body.shadow(half)
    dark, trim = shade(paint, 0.8), shade(paint, 0.45)
    tail, nose = (0.0, belt), (length, 0.78)
    body.across(dark, (0.0, 0.25), tail, (-half, half))
    body.across(dark, nose, (length, 0.25), (-half, half))
    body.across(paint, (3.1, belt), nose, (-half, half))
    body.across(paint, tail, (3.1, belt), (-half, half))
    body.sides(paint, [(0.0, 0.25), tail, (3.1, belt), nose, (length, 0.25)], half)
    body.sides(trim, [(0.0, 0.2), (0.0, 0.36), (length, 0.36), (length, 0.2)], half)
    body.across(trim, (0.0, 0.2), (0.0, 0.42), (-half, half))
    body.across(trim, (length, 0.42), (length, 0.2), (-half, half))
    cabin = [(0.1, belt), (max(0.15, 0.55 - 1.6 * van), roof), (2.3 + van, roof), (3.15, belt)]
    body.across(GLASS, cabin[0], cabin[1], (-0.76, 0.76))
    body.across(shade(GLASS, 1.2), cabin[2], cabin[3], (-0.76, 0.76))
    body.across(shade(paint, 1.1), cabin[1], cabin[2], (-0.76, 0.76))
    body.sides(paint, cabin, 0.76)
    back, front = cabin[1][0], cabin[2][0]
    glass_top = roof - 0.12
    body.sides(GLASS, [(0.35, belt + 0.03), (back + 0.12, glass_top), (1.55, glass_top), (1.55, belt + 0.03)], 0.78)
    body.sides(GLASS, [(1.68, belt + 0.03), (1.68, glass_top), (front - 0.03, glass_top), (2.92, belt + 0.03)], 0.78)
    for left, right in ((-half, -0.55), (0.55, half)):
        body.across((0.75, 0.08, 0.06), (-0.01, 0.62), (-0.01, 0.86), (left, right))
        body.across((0.98, 0.97, 0.85), (length + 0.01, 0.75), (length + 0.01, 0.54), (left, right))
    body.across((0.9, 0.9, 0.82), (-0.01, 0.5), (-0.01, 0.64), (-0.28, 0.28))
    body.across((0.1, 0.1, 0.11), (length + 0.01, 0.7), (length + 0.01, 0.48), (-0.5, 0.5))
    body.wheels((0.8, 3.35), 0.34, half + 0.01)


def bus(patches: Patches, paint: Colour, x: float, z: float, heading: float) -> None:
    length, half, height = 9.5, 1.25, 3.1
    body = Vehicle(patches, BUS, x, z, heading, length)
    body.shadow(half)
    outline = [(0.0, 0.35), (0.0, height), (length, height), (length, 0.35)]
    for low, high in pairwise(outline):
        body.across(shade(paint, 0.9), low, high, (-half, half))
    body.sides(paint, outline, half)
    body.sides(shade(paint, 0.5), [(0.0, 0.35), (0.0, 0.62), (length, 0.62), (length, 0.35)], half)
    for k in range(6):
        start = 0.3 + 1.5 * k
        window = [(start, 1.35), (start, 2.55), (start + 1.25, 2.55), (start + 1.25, 1.35)]
        body.sides(GLASS, window, half + 0.01)
    body.across(GLASS, (-0.01, 1.5), (-0.01, 2.6), (-1.05, 1.05))
    body.across(shade(GLASS, 1.2), (length + 0.01, 2.7), (length + 0.01, 1.1), (-1.12, 1.12))
    for left, right in ((-1.2, -0.85), (0.85, 1.2)):
        body.across((0.75, 0.08, 0.06), (-0.01, 0.7), (-0.01, 1.1), (left, right))
        body.across((0.98, 0.97, 0.85), (length + 0.01, 0.95), (length + 0.01, 0.68), (left, right))
    body.across((0.95, 0.75, 0.2), (length + 0.01, 3.0), (length + 0.01, 2.76), (-0.8, 0.8))
    body.wheels((2.1, 7.6), 0.48, half + 0.01)
