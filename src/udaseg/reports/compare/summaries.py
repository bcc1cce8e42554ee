"""Mean and spread over seeds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof = 1) over the `n` seeds that have a value, of `planned`."""

    mean: float
    std: float  # NaN for n < 2
    n: int
    planned: int

    def numbers(self, name: str) -> dict[str, float]:
        """Its columns in the numbers of a table."""
        return {f"{name}_mean": self.mean, f"{name}_std": self.std, f"{name}_n": self.n}


def summarise(values: Iterable[float], planned: int) -> Summary:
    """Mean and spread of the values that are not NaN."""
    present = pd.Series([value for value in values if not math.isnan(value)], dtype=float)
    return Summary(float(present.mean()), float(present.std(ddof=1)), len(present), planned)
