"""Schedules as pure functions of the iteration, or of the round, counted from 0: rates, moving averages, portions."""

from typing import Literal


def poly(iteration: int, total: int, power: float) -> float:
    """(1 - iteration / total) ** power: 1 at the start, 0 from `total` on (a negative base has no real power)."""
    return max(0.0, 1.0 - iteration / total) ** power


def warmup(iteration: int, length: int, start: float = 1e-6) -> float:
    """Grows linearly from `start` at iteration 0 to 1 at `length`, and stays there (DAFormer's form and start)."""
    if iteration >= length:
        return 1.0
    return 1.0 - (1.0 - iteration / length) * (1.0 - start)


def ema_keep(iteration: int, most: float) -> float:
    """Share of a moving average that is kept at an update: a true average at first, `most` later (mean teacher).

    min(1 - 1 / (iteration + 1), most): 0 at iteration 0, where the average becomes the new value.
    """
    return min(1.0 - 1.0 / (iteration + 1), most)


def portions(rounds: int, start: float, step: float, most: float, rule: Literal["paper", "released"]) -> list[float]:
    """The share that is selected in each round of self-training (CBST): `step` more each round, until `most`.

    paper: min(portion + step, most), as in CRST's release, too, which counts an evaluation as one more round at the
    end. released: CBST's own adds a step while the portion is less than `most`, and so ends beyond it where the steps
    do not meet it, or where the sum of rounded numbers stays a little below it (0.2 + 6 * 0.05 < 0.5: ends at 0.55).
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
