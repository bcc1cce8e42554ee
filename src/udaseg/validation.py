"""Plain data into strict models; messages name the key's path, the value, what is allowed and what was meant."""

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from udaseg.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Unknown keys are refused, nothing is coerced, nothing can be changed afterwards.

    A string under a field is its description: meaning, unit, the paper's value and source.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def validate(model: type[M], raw: Any, prefix: str = "") -> M:
    """`raw` (plain data) as `model`. UserError with a line for every wrong key below the path `prefix`."""
    try:
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = [_describe(model, detail, prefix) for detail in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{prefix or 'parameters'}: only plain YAML values are allowed ({error})") from None


def validate_fields(model: type[BaseModel], raw: Any, prefix: str = "") -> None:
    """UserError with a line for every key of `raw` that is wrong by itself, as in `validate`.

    What the model's own validators say about several keys together is left out.
    """
    try:
        model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        details = [detail for detail in error.errors() if detail["type"] != "value_error"]
        if details:
            raise UserError("\n".join(_describe(model, detail, prefix) for detail in details)) from None


def require_known(path: str, name: str, known: Iterable[str]) -> None:
    """ValueError naming the key's path, what was found, what is there, and the nearest valid name."""
    names = [str(entry) for entry in known]
    if name not in names:
        raise ValueError(f"{path}: '{name}' is not known; {suggestion(name, names)}")


def refuse_address(path: str, found: str) -> None:
    """ValueError for an address where a path on this machine belongs. It is not repeated: it may hold a password."""
    if "://" in found:
        raise ValueError(f"{path}: is an address; expected a path on this machine")


def refuse_twice(path: str, entries: Sequence[Any]) -> None:
    """ValueError when a list has an entry more than once."""
    twice = [entry for index, entry in enumerate(entries) if entry in entries[:index]]
    if twice:
        raise ValueError(f"{path}: names {twice[0]} twice")


def suggestion(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"


def _describe(model: type[BaseModel], detail: Any, prefix: str) -> str:
    """One line for one of pydantic's errors. Our validators begin their messages with the key below their model."""
    kind, found, location = detail["type"], detail["input"], detail["loc"]
    words = [str(part) for part in location if part != "[key]"]
    path = ".".join([prefix, *words] if prefix else words)
    if kind == "extra_forbidden":
        return f"{path}: unknown key; {suggestion(words[-1], _siblings(model, location))}"
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{path}.{message}" if path else message
    if kind == "missing":
        return f"{path}: is required, but not given"
    message = f"{path}: {detail['msg']}, found {json.dumps(found)[:200]}"
    if kind == "literal_error" and isinstance(found, str):
        allowed = [part.strip("'") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        message += "; " + suggestion(found, allowed) if difflib.get_close_matches(found, allowed, n=1) else ""
    return message


def _siblings(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that are allowed beside the last one of pydantic's path."""
    here = [model]
    for part in location[:-1]:  # keys of mappings and places in lists name no field, and stay where they are
        below = [field.annotation for found in here if (field := found.model_fields.get(str(part)))]
        here = [found for annotation in below for found in _models(annotation)] or here
    return [key for found in here for key in found.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as both of `dict[str, A] | B`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)
