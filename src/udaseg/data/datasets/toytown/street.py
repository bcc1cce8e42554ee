"""The dimensions of one street, and what everything that builds in it needs: its random numbers and its colours."""

import math
import random
from collections.abc import Callable

from udaseg.data.datasets.toytown.look import DomainLook, parse
from udaseg.data.datasets.toytown.patches import Colour, Patches, shade

FAR = 75.0  # metres: where the street ends, in a row of trees and houses
Job = tuple[float, Callable[[], None]]  # (depth, what adds the patches of something there)


class Street:
    """A straight street along z, the road's middle at x = 0, perhaps with a crossing one; empty as yet."""

    def __init__(self, draw: random.Random, look: DomainLook) -> None:
        self.draw, self.look = draw, look
        self.half = draw.uniform(4.4, 5.8)  # half of the road's width
        self.walk = draw.uniform(2.8, 5.0)  # the sidewalk's width
        self.edge = self.half + self.walk  # where the lots begin
        eye_x = draw.uniform(0.2, 0.5) * self.half
        self.patches = Patches(eye_x, draw.uniform(*look.camera_height), draw.choice((-1, 1)))
        start = draw.uniform(11.0, 28.0)
        self.junction = (start, start + 8.0) if draw.random() < look.junction else None

    def colour(self, material: str) -> Colour:
        """One of the material's colours, a little lighter or darker."""
        return shade(parse(self.draw.choice(self.look.palette[material])), self.draw.uniform(0.92, 1.08))

    def number(self, mean: float) -> int:
        """A Poisson draw, at most 12."""
        count, remaining = 0, self.draw.random() - math.exp(-mean)
        probability = math.exp(-mean)
        while remaining > 0 and count < 12:
            count += 1
            probability *= mean / count
            remaining -= probability
        return count

    def crossing(self, z0: float, z1: float) -> bool:
        """Whether z0…z1 touches the junction."""
        return self.junction is not None and z0 < self.junction[1] and z1 > self.junction[0]
