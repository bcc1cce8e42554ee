"""By how much two results of one job differ: for each name, the largest difference of all numbers in their files."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.runs.files import read_json
from udaseg.runs.kinds import KINDS

READABLE = [name for kind in KINDS.values() for name in kind.numbers if name.endswith((".json", ".jsonl"))]


@dataclass(frozen=True)
class Difference:
    """The largest difference of two results under one name. Scores are fractions, as in the files."""

    here: Any
    recorded: Any
    size: float | None  # None: not two numbers, for instance because a class is undefined on one side
    iteration: int | None  # in a training's history

    @property
    def rank(self) -> float:
        """Its size; without two numbers it counts as larger than any."""
        return math.inf if self.size is None else self.size

    def content(self) -> dict[str, Any]:
        """As plain data, for a certificate."""
        return {key: value for key, value in asdict(self).items() if key != "iteration" or value is not None}


Value = tuple[str, tuple[int, ...], int | None]  # name, indices in the lists around it, iteration


def values(folder: Path) -> dict[Value, Any]:
    """Everything that the readable files of a job's folder hold.

    Raises:
        UserError: one of them is damaged.
    """
    found: dict[Value, Any] = {}
    for path in (folder / name for name in READABLE if (folder / name).is_file()):
        for iteration, content in _history(path) if path.suffix == ".jsonl" else [(None, read_json(path))]:
            found |= {(name, place, iteration): value for name, place, value in leaves(content)}
            if path.name == "quality.json":
                found |= {(name, (), None): value for name, value in _label_scores(path, content).items()}
    return found


def leaves(content: Any, name: str = "", place: tuple[int, ...] = ()) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Dotted name, indices in lists and value of every scalar in plain data; NaN and infinity as text."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key), place)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leaves(value, name, (*place, index))
    else:
        yield name, place, str(content) if isinstance(content, float) and not math.isfinite(content) else content


def largest(here: dict[Value, Any], recorded: dict[Value, Any]) -> dict[str, Difference]:
    """Name -> its largest difference; the first of equal ones."""
    found: dict[str, Difference] = {}
    for key in dict.fromkeys([*here, *recorded]):
        ours, theirs = here.get(key), recorded.get(key)
        if ours == theirs:
            continue
        name, _, iteration = key
        difference = Difference(ours, theirs, _size(ours, theirs), iteration)
        if name not in found or difference.rank > found[name].rank:
            found[name] = difference
    return dict(sorted(found.items()))


def first_iteration(here: dict[Value, Any], recorded: dict[Value, Any]) -> int | None:
    """The first logged iteration at which two histories differ; None: they are equal."""
    differing = {key[2] for key in here.keys() | recorded.keys() if here.get(key) != recorded.get(key)}
    return min((iteration for iteration in differing if iteration is not None), default=None)


def _history(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        for line in path.read_text().splitlines():
            content = json.loads(line)
            yield int(content.pop("iteration")), content
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not the history of a training ({error!r})") from None


def _label_scores(path: Path, content: Any) -> dict[str, float | None]:
    """Of pseudo-labels, over all classes: the share of pixels with a label, and the share of these that is right."""
    try:
        coverage = sum(content["selected"].values()) / content["total"]
        judged = sum((content["judged"] or {}).values())
        return {"coverage": coverage, "precision": sum(content["correct"].values()) / judged if judged else None}
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: does not judge pseudo-labels ({error!r})") from None


def _size(*pair: Any) -> float | None:
    numbers = [value for value in pair if isinstance(value, int | float) and not isinstance(value, bool)]
    return abs(numbers[0] - numbers[1]) if len(numbers) == 2 else None
