"""The ground of a street in Toytown, and the lots along it: buildings, gardens, walls, fences, hedges."""

import math
from functools import partial

from udaseg.data.datasets.toytown import things
from udaseg.data.datasets.toytown.patches import (
    ASPHALT,
    BRICK,
    BUILDING,
    CIRCLE,
    FACING_LEFT,
    FACING_RIGHT,
    FENCE,
    FRONT,
    GLASS,
    GRASS,
    LEAF,
    NEAR,
    PAVING,
    PLASTER,
    ROAD,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    WALL,
    Colour,
    shade,
)
from udaseg.data.datasets.toytown.street import FAR, Job, Street


def ground(street: Street) -> None:
    patches, half, edge = street.patches, street.half, street.edge
    patches.ground(TERRAIN, street.colour("terrain"), (-300, 300), (0, 400), texture=GRASS)
    paving, road = street.colour("sidewalk"), street.colour("road")
    patches.ground(SIDEWALK, paving, (-edge, edge), (0, FAR + 5), texture=PAVING)
    if street.junction:
        z0, z1 = street.junction
        patches.ground(SIDEWALK, paving, (-80, 80), (z0 - 2.2, z1 + 2.2), texture=PAVING)
        patches.ground(ROAD, road, (-80, 80), (z0, z1), texture=ASPHALT)
    patches.ground(ROAD, road, (-half, half), (0, FAR + 5), texture=ASPHALT)
    kerb, verge, grass = shade(paving, 1.12), street.draw.random() < 0.4, street.colour("terrain")
    for near, far in _stretches(street, 0.0, FAR):
        for side in (-1, 1):
            inner, outer = sorted((side * half, side * (half + 0.28)))
            patches.ground(SIDEWALK, kerb, (inner, outer), (near, far))
            if verge:
                inner, outer = sorted((side * (half + 0.28), side * (half + 1.3)))
                patches.ground(TERRAIN, grass, (inner, outer), (near, far - 3.0), texture=GRASS)
    _markings(street)


def _stretches(street: Street, near: float, far: float) -> list[tuple[float, float]]:
    """The parts of near…far outside of the junction."""
    if street.junction is None:
        return [(near, far)]
    return [(near, street.junction[0]), (street.junction[1], far)]


def _markings(street: Street) -> None:
    patches, white, draw = street.patches, street.colour("marking"), street.draw
    offset = draw.uniform(0.0, 6.0)
    for k in range(12):
        z0 = 6.0 * k - offset
        if not street.crossing(z0 - 4, z0 + 7):
            patches.ground(ROAD, white, (-0.11, 0.11), (z0, z0 + 3.0))
    if draw.random() < 0.6:
        for near, far in _stretches(street, 0.0, FAR):
            for side in (-1, 1):
                x = side * (street.half - 2.25)
                patches.ground(ROAD, white, (x - 0.08, x + 0.08), (near, far - 3.0))
    if street.junction:
        z0 = street.junction[0]
        for k in range(int(2 * street.half)):
            x = -street.half + 0.35 + k
            patches.ground(ROAD, white, (x, x + 0.5), (z0 - 3.0, z0 - 0.4))
        patches.ground(ROAD, white, (0.2, street.half - 0.3), (z0 - 4.2, z0 - 3.8))


def backdrop(street: Street) -> None:
    """Trees and houses across the end of the street."""
    leaves = street.colour("leaves")
    for k in range(-9, 10):
        x, width = k * 11.0 + street.draw.uniform(-3, 3), street.draw.uniform(6, 9)
        if street.draw.random() < 0.5:
            height = street.draw.uniform(5, 13)
            facade = street.colour("facade")
            street.patches.front(BUILDING, facade, (x - width, x + width), (0, height), FAR + 8, PLASTER)
            for row in range(int(height / 3)):
                y = 1.2 + 3 * row
                for column in range(4):
                    u = x - width + width * (0.25 + 0.5 * column)
                    street.patches.front(BUILDING, GLASS, (u - 0.7, u + 0.7), (y, y + 1.4), FAR + 8)
        else:
            _bush(street, x, FAR + 7, width, street.draw.uniform(4, 8), leaves)


def _bush(street: Street, x: float, z: float, half_width: float, height: float, leaves: Colour) -> None:
    tone = shade(leaves, street.draw.uniform(0.85, 1.1))
    outline = [(c * half_width, max(0.0, s) * height) for c, s in CIRCLE]
    lumps = [street.draw.uniform(0.85, 1.1) for _ in outline]
    points = [(x + u * r, v * r, z) for (u, v), r in zip(outline, lumps, strict=True)]
    street.patches.add(VEGETATION, tone, points, FRONT, LEAF)


def lots(street: Street) -> list[Job]:
    """Buildings, and open ground behind walls, fences and hedges, on both sides of the street."""
    jobs: list[Job] = []
    for side in (-1, 1):
        z = street.draw.uniform(-6.0, 1.0)
        while z < FAR:
            end = z + street.draw.uniform(8.0, 15.0)
            if street.junction and z < street.junction[1] and end > street.junction[0] - 2:
                end = street.junction[0] - 2.2
                if end - z > 4.0:
                    jobs.append((z, partial(_lot, street, side, z, end)))
                z = street.junction[1] + 2.2
                continue
            jobs.append((z, partial(_lot, street, side, z, end)))
            z = end + (street.draw.uniform(1.0, 4.0) if street.draw.random() < 0.25 else 0.0)
    return jobs


def _lot(street: Street, side: int, z0: float, z1: float) -> None:
    if z1 <= NEAR:
        return
    if street.draw.random() < street.look.building:
        _building(street, side, z0, z1)
    else:
        _open_ground(street, side, z0, z1)


def _building(street: Street, side: int, z0: float, z1: float) -> None:
    draw, patches = street.draw, street.patches
    edge, deep = street.edge, street.edge + 12.0
    storeys = draw.randint(*street.look.storeys)
    height = 3.9 + 3.1 * (storeys - 1)
    facade, roof, trim = street.colour("facade"), street.colour("roof"), shade(street.colour("sidewalk"), 1.1)
    texture = BRICK if draw.random() < 0.5 else PLASTER
    if side == patches.sun_side and z1 > NEAR:
        near, reach = max(z0, NEAR), 0.5 * height
        corners = [(edge, near), (edge, z1), (edge - reach, z1 + 0.3 * reach), (edge - reach, near + 0.3 * reach)]
        patches.shadows.append([(side * x, 0.0, z) for x, z in corners])
    pitched = storeys < 5 and draw.random() < 0.6
    near, ridge = max(z0, NEAR), height + 3.2
    if pitched:  # first the slope towards the street, then the gable and the facade over it
        slope = [(edge, height), (edge + 5.0, ridge)]
        points = [(side * x, y, z) for (x, y), z in zip(slope + slope[::-1], (near, near, z1, z1), strict=True)]
        patches.add(BUILDING, roof, points, FACING_RIGHT if side < 0 else FACING_LEFT, BRICK)
    if z0 > NEAR:
        patches.front(BUILDING, facade, _span(side, edge, deep), (0, height), z0, texture)
        if pitched:
            gable = [(side * edge, height, z0), (side * (edge + 5), ridge, z0), (side * (edge + 10), height, z0)]
            patches.add(BUILDING, facade, gable, FRONT, texture)
        _windows_front(street, side, edge, storeys, z0)
    patches.side(BUILDING, facade, side * edge, (0, height), (z0, z1), texture)
    _windows_side(street, side, storeys, z0, z1, trim)
    if not pitched:
        patches.side(BUILDING, trim, side * (edge - 0.02), (height - 0.5, height), (z0, z1))
    patches.side(BUILDING, shade(facade, 0.8), side * (edge - 0.02), (0, 0.5), (z0, z1))


def _span(side: int, inner: float, outer: float) -> tuple[float, float]:
    return (inner, outer) if side > 0 else (-outer, -inner)


def _windows_front(street: Street, side: int, edge: float, storeys: int, z: float) -> None:
    if z > 45:
        return
    for storey in range(storeys):
        y = 1.2 + 3.1 * storey
        for column in range(3):
            x = edge + 1.2 + 3.3 * column
            glass = shade(GLASS, street.draw.uniform(0.8, 1.5))
            street.patches.front(BUILDING, glass, _span(side, x, x + 1.3), (y, y + 1.6), z)


def _windows_side(street: Street, side: int, storeys: int, z0: float, z1: float, trim: Colour) -> None:
    draw, patches = street.draw, street.patches
    columns = max(1, int((z1 - z0) / 2.9))
    step = (z1 - z0) / columns
    x = side * (street.edge - 0.03)
    shop, awning, door = draw.random() < 0.4, street.colour("awning"), street.colour("door")
    framed = z0 < 25
    for column in range(columns):
        z = z0 + step * (column + 0.5)
        if z + 1 < NEAR:
            continue
        for storey in range(1 if shop else 0, storeys):
            y = 1.2 + 3.1 * storey + (0.3 if storey else 0.0)
            if framed:
                patches.side(BUILDING, trim, x, (y - 0.12, y + 1.72), (z - 0.72, z + 0.72))
            glass = shade(GLASS, draw.uniform(0.8, 1.5))
            patches.side(BUILDING, glass, x, (y, y + 1.6), (z - 0.6, z + 0.6))
        if shop:
            patches.side(BUILDING, shade(GLASS, 1.3), x, (0.6, 2.6), (z - 1.1, z + 1.1))
    z = z0 + step * (draw.randrange(columns) + 0.5)
    patches.side(BUILDING, door, x, (0, 2.4), (z - 0.7, z + 0.7))
    if shop:
        patches.side(BUILDING, awning, side * (street.edge - 0.6), (2.7, 3.5), (z0 + 0.4, z1 - 0.4))


def _open_ground(street: Street, side: int, z0: float, z1: float) -> None:
    """Trees on grass behind a wall, a fence, a hedge or nothing."""
    draw, patches, edge = street.draw, street.patches, street.edge
    leaves = street.colour("leaves")
    for _ in range(draw.randint(1, 3)):
        z = draw.uniform(max(z0, 4.0), max(z1, 5.0))
        tree(street, side * (edge + draw.uniform(2.5, 7.0)), z, draw.uniform(4.5, 9.0))
    border = draw.choices(("wall", "fence", "hedge", "none"), street.look.lot_border)[0]
    x, near = side * edge, max(z0, NEAR)
    if border == "wall":
        colour, height = street.colour("wall"), draw.uniform(1.6, 2.4)
        if z0 > NEAR:
            patches.front(WALL, colour, _span(side, edge, edge + 0.4), (0, height), z0, BRICK)
        patches.side(WALL, colour, x, (0, height), (z0, z1), BRICK)
        patches.side(WALL, shade(colour, 1.2), side * (edge - 0.02), (height - 0.18, height), (z0, z1))
    elif border == "hedge":
        patches.side(VEGETATION, shade(leaves, 0.9), x, (0, draw.uniform(1.1, 1.8)), (z0, z1), LEAF)
    elif border == "fence":
        colour, height = street.colour("fence"), draw.uniform(1.3, 1.8)
        # The mesh between the bars is labelled fence as well, as in Cityscapes; it shows the lawn, darker.
        patches.side(FENCE, shade(street.colour("terrain"), 0.62), x, (0, height), (z0, z1))
        for y in (0.25, height - 0.2):
            patches.side(FENCE, colour, x, (y - 0.08, y + 0.08), (z0, z1))
        for k in range(int((z1 - near) / 0.55) + 1):
            z = near + 0.55 * k
            patches.side(FENCE, colour, x, (0, height + 0.1), (z, min(z + 0.22, z1)))


def tree(street: Street, x: float, z: float, height: float) -> None:
    draw = street.draw
    blobs = [(0.0, 0.0, 0.75)]
    for k in range(7):
        angle = 2 * math.pi * (k + draw.random()) / 7
        blobs.append((0.55 * math.cos(angle), 0.5 * math.sin(angle), draw.uniform(0.35, 0.55)))
    things.tree(street.patches, street.colour("leaves"), street.colour("bark"), x, z, height, blobs)
