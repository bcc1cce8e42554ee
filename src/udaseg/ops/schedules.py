"""Learning-rate factors as pure functions of the iteration, counted from 0."""


def poly(iteration: int, total: int, power: float) -> float:
    """(1 - iteration / total) ** power: 1 at the start, 0 from `total` on (a negative base has no real power)."""
    return max(0.0, 1.0 - iteration / total) ** power


def warmup(iteration: int, length: int, start: float = 1e-6) -> float:
    """Grows linearly from `start` at iteration 0 to 1 at `length`, and stays there (DAFormer's form and start)."""
    if iteration >= length:
        return 1.0
    return 1.0 - (1.0 - iteration / length) * (1.0 - start)
