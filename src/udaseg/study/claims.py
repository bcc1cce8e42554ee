"""Reading the claims of papers, and checking that the parameters have the rows that test them.

A row is a recipe (`plca`), one of its stages (`cpsl:stage1`), or a point of a sweep (`pipa_terms/both`).
"""

from collections.abc import Iterator
from pathlib import Path

from udaseg.config.claims import Claim
from udaseg.config.schema import Params
from udaseg.errors import UserError
from udaseg.runs.files import read_yaml
from udaseg.validation import Model, refuse_twice, suggestion, validate


class _Claims(Model):
    claims: list[Claim]


def load_claims(path: Path, params: Params) -> list[Claim]:
    """The claims in a YAML file. They may be about rows that this study does not run.

    Raises:
        UserError: the file is missing or damaged, has a wrong key or value, or names a row that no recipe, stage or
            sweep of the parameters has; every problem that can be told at once is in the message.
    """
    claims = validate(_Claims, {"claims": read_yaml(path)}, str(path)).claims
    try:
        refuse_twice(f"{path}", [claim.name for claim in claims])
    except ValueError as error:
        raise UserError(str(error)) from None
    unknown = [
        f"{path}: claim '{claim.name}': {problem}"
        for claim in claims
        for row in claim.rows()
        for problem in _problems(row, params)
    ]
    if unknown:
        raise UserError("\n".join(unknown))
    return claims


def _problems(row: str, params: Params) -> Iterator[str]:
    """What is wrong with the name of a row; nothing if it is known.

    A point of a grid can have any name, because studies change the values of grids.
    """
    sweep, slash, point = row.partition("/")
    if slash:
        if sweep not in params.sweeps:
            yield f"sweep '{sweep}' is not known; {suggestion(sweep, list(params.sweeps))}"
        elif (points := params.sweeps[sweep].points) is not None and point not in points:
            yield f"point '{point}' of sweep '{sweep}' is not known; {suggestion(point, list(points))}"
        return
    recipe, colon, stage = row.partition(":")
    if recipe not in params.recipes:
        yield f"recipe '{recipe}' is not known; {suggestion(recipe, [*params.recipes, 'SWEEP/POINT'])}"
        return
    names = [run for name, given in params.recipes[recipe].stages.items() for run in given.runs(name)]
    if colon and stage not in names:
        yield f"stage '{stage}' of recipe '{recipe}' is not known; {suggestion(stage, names)}"
