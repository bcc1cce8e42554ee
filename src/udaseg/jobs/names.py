"""Names of run folders: readable, and never split or escaped by a shell, a URL or one of Snakemake's executors."""

import re
from collections.abc import Iterable
from typing import Any

from udaseg.runs.spec import HASH_DIGITS

LONGEST = 100  # characters


def run_name(changes: Iterable[tuple[str, Any]], seed: int) -> str:
    """`name=value_…_seed=N`, the name of a run's folder before the hyphen and the hash.

    If it had more than `LONGEST` characters with the hash, the last changes are left out; the hash tells runs apart.

    Args:
        changes: name and value of each knob and loss weight that is not the method's default.
        seed: of the run.
    """
    words = [f"{name}={_text(value)}" for name, value in changes]
    end = f"seed={seed}"
    while words and len("_".join([*words, end])) > LONGEST - HASH_DIGITS - 1:
        words.pop()
    return "_".join([*words, end])


def _text(value: Any) -> str:
    """A value in letters, digits, points, hyphens and underscores."""
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}".replace("+", "")  # 1e+20 as 1e20
    text = str(value).lower() if isinstance(value, bool | None) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
