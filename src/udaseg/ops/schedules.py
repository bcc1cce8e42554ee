"""Schedules of rates, moving averages and portions: pure functions of the iteration or round, counted from 0."""

import math

from udaseg.types import Fidelity

RAMP_STEEPNESS = 5  # of `ramp_up` (as released)


def poly(iteration: int, total: int, power: float) -> float:
    """(1 - iteration / total) ** power: 1 at the start, 0 from `total` on (a negative base has no real power)."""
    return max(0.0, 1.0 - iteration / total) ** power


def warmup(iteration: int, length: int, start: float = 1e-6) -> float:
    """Linear from `start` at iteration 0 to 1 at `length`, then constant (DAFormer's form and start)."""
    if iteration >= length:
        return 1.0
    return 1.0 - (1.0 - iteration / length) * (1.0 - start)


def ema_keep(iteration: int, most: float) -> float:
    """Share of a moving average that is kept at an update: min(1 - 1 / (iteration + 1), most) (mean teacher).

    A plain average at first, which at iteration 0 becomes the new value; a moving one with `most` later.
    """
    return min(1.0 - 1.0 / (iteration + 1), most)


def cosine_keep(progress: float, least: float) -> float:
    """Share of a moving average that is kept: from `least` at progress 0 to 1 at progress 1 (memory bank)."""
    return 1 - (1 - least) * (math.cos(math.pi * progress) + 1) / 2


def ramp_up(iteration: int, length: int) -> float:
    """exp(-5 (1 - iteration / length)^2) before `length`, 1 from there on (memory bank)."""
    return 1.0 if iteration >= length else math.exp(-RAMP_STEEPNESS * (1 - iteration / length) ** 2)


def portions(rounds: int, start: float, step: float, most: float, rule: Fidelity) -> list[float]:
    """The share selected in each round of self-training (CBST): `step` more each round, until `most`.

    paper: min(portion + step, most), as also in CRST's release, which counts an evaluation as one more round at the
    end. released: CBST adds a step while the portion is less than `most`. It ends beyond `most` if the steps do not
    meet it exactly, or if rounding leaves their sum a little below it (0.2 + 6 * 0.05 < 0.5: ends at 0.55).
    """
    found: list[float] = []
    portion = start
    for _ in range(rounds):
        found.append(portion)
        if rule == "paper":
            portion = min(portion + step, most)
        elif portion < most:
            portion += step
    return found


def round_rates(rounds: int, start: float, factor: float) -> list[float]:
    """The learning rate of each round, `factor` times that of the round before (CBST's release 1 / sqrt(2))."""
    return [start * factor**index for index in range(rounds)]
