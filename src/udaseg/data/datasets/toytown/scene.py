"""What is to be seen in one picture of Toytown: a street, its lots, what stands on its sidewalks and what moves."""

import math
import random
from functools import partial

from udaseg.data.datasets.toytown import things, vehicles
from udaseg.data.datasets.toytown.look import DomainLook
from udaseg.data.datasets.toytown.lots import backdrop, ground, lots, tree
from udaseg.data.datasets.toytown.patches import Patches
from udaseg.data.datasets.toytown.street import Job, Street


def build(draw: random.Random, look: DomainLook) -> Patches:
    """A scene in a domain's mixture and colours, ready to be painted."""
    street = Street(draw, look)
    ground(street)
    backdrop(street)
    _in_order(lots(street))
    _in_order(_standing(street) + _moving(street))
    return street.patches


def _in_order(jobs: list[Job]) -> None:
    """Runs jobs from the farthest to the nearest."""
    for _, job in sorted(jobs, key=lambda pair: -pair[0]):
        job()


def _standing(street: Street) -> list[Job]:
    """Trees, lamps, signs, traffic lights and parked bicycles on the sidewalks."""
    draw, look, patches = street.draw, street.look, street.patches
    jobs: list[Job] = []
    metal = street.colour("pole")
    for side in (-1, 1):
        kerb = side * (street.half + 0.6)
        for _ in range(street.number(look.trees)):
            z = draw.uniform(7.0, 50.0)
            if not street.crossing(z - 2, z + 2):
                jobs.append((z, partial(tree, street, kerb, z, draw.uniform(4.0, 7.0))))
        first = draw.uniform(5.0, 16.0)
        for z in (first, first + 18.0, first + 36.0):
            if draw.random() < look.lamps and not street.crossing(z - 1, z + 1):
                jobs.append((z, partial(things.lamp, patches, metal, kerb, z, -side * 1.6)))
        for _ in range(street.number(look.signs)):
            z = draw.uniform(5.5, 26.0)
            shape = draw.choice(("disc", "order", "triangle", "board"))
            colour = street.colour("board" if shape == "board" else "sign")
            if not street.crossing(z - 1, z + 1):
                x = kerb + side * draw.uniform(0.0, 0.5)
                jobs.append((z, partial(things.sign, patches, metal, x, z, shape, colour)))
        for _ in range(street.number(look.bicycles / 2)):
            z, squeeze = draw.uniform(6.0, 20.0), draw.choice((-1, 1)) * draw.uniform(0.55, 1.0)
            x = side * (street.half + draw.uniform(0.8, street.walk - 0.3))
            jobs.append((z, partial(things.bicycle, patches, street.colour("bicycle"), x, z, squeeze)))
    chance = look.lights if street.junction else look.lights / 2
    if draw.random() < chance:
        z = street.junction[0] - 3.4 if street.junction else draw.uniform(8.0, 20.0)
        lit = draw.randrange(3)
        for side in (-1, 1):
            x = side * (street.half + 0.5)
            jobs.append((z, partial(things.traffic_light, patches, metal, x, z, lit)))
        if street.junction and draw.random() < 0.7:
            z = street.junction[1] + 1.5
            jobs.append((z, partial(things.traffic_light, patches, metal, street.half + 0.5, z, lit)))
    return jobs


def _moving(street: Street) -> list[Job]:
    """Cars, a bus, riders and people. Driving is on the right; headings have a little play."""
    draw, look, patches = street.draw, street.look, street.patches
    jobs: list[Job] = []
    taken: list[tuple[float, float, float]] = []  # (x, z, length) of vehicles, so that nothing stands in another

    def blocked(x: float, z: float, across: float, along: float) -> bool:
        return any(abs(x - x1) < across and abs(z - z1) < length / 2 + along for x1, z1, length in taken)

    def vehicle(x: float, z: float, heading: float, length: float = 4.2) -> None:
        if blocked(x, z, 2.2, length / 2 + 0.8):
            return
        taken.append((x, z, length))
        heading += draw.gauss(0.0, 0.03)
        if length > 5:
            job = partial(vehicles.bus, patches, street.colour("bus"), x, z, heading)
        else:
            job = partial(vehicles.car, patches, street.colour("car"), x, z, heading, draw.uniform(0.92, 1.25))
        jobs.append((z - length / 2, job))

    lane = 0.45 * (street.half - 2.0) + 0.2
    if draw.random() < look.bus:
        ahead = draw.random() < 0.5
        vehicle(lane if ahead else -lane, draw.uniform(15.0, 32.0), 0.0 if ahead else math.pi, 9.5)
    for _ in range(street.number(look.driving)):
        ahead = draw.random() < 0.5
        vehicle(lane if ahead else -lane, draw.uniform(10.0, 45.0), 0.0 if ahead else math.pi)
    if street.junction and draw.random() < 0.4:
        heading = draw.choice((-1, 1)) * math.pi / 2
        vehicle(draw.uniform(-9.0, 9.0), sum(street.junction) / 2, heading)
    for side in (-1, 1):
        first = draw.uniform(3.0, 7.0) if side < 0 else draw.uniform(6.5, 11.0)  # keeps the view free
        for k in range(8):
            z = first + 5.6 * k
            if draw.random() < look.parked and not street.crossing(z - 4, z + 4):
                vehicle(side * (street.half - 1.1), z, 0.0 if side > 0 else math.pi)
    for _ in range(street.number(look.riders)):
        z, squeeze = draw.uniform(6.5, 22.0), draw.choice((-1, 1)) * draw.uniform(0.5, 1.0)
        x = draw.choice((-1, 1)) * draw.uniform(0.25, 0.62) * street.half
        if not blocked(x, z, 1.6, 0.8):
            outfit = (street.colour("clothes"), street.colour("trousers"))
            looks = (street.colour("skin"), street.colour("clothes"), street.colour("bicycle"))
            jobs.append((z, partial(things.rider, patches, outfit, *looks, x, z, squeeze)))
    for _ in range(street.number(look.people)):
        x, z = _footing(street)
        if not blocked(x, z, 1.3, 0.5):
            jobs.append(_person(street, x, z))
    return jobs


def _footing(street: Street) -> tuple[float, float]:
    """Where someone walks: on a sidewalk, or now and then across the road."""
    draw = street.draw
    if draw.random() < 0.85:
        return draw.choice((-1, 1)) * (street.half + draw.uniform(0.4, street.walk - 0.3)), draw.uniform(5.0, 22.0)
    return draw.uniform(-street.half, street.half), draw.uniform(9.0, 22.0)


def _person(street: Street, x: float, z: float) -> Job:
    draw = street.draw
    height = draw.uniform(1.55, 1.9) if draw.random() < 0.88 else draw.uniform(1.05, 1.35)
    outfit = (street.colour("clothes"), street.colour("trousers"))
    args = (outfit, street.colour("skin"), street.colour("hair"), x, z, height, draw.uniform(-0.35, 0.35))
    return z, partial(things.person, street.patches, *args)
