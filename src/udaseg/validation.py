"""Plain data into strict models; messages name the key's path, the value, what is allowed and what was meant."""

import difflib
import json
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from udaseg.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Unknown keys are refused, nothing is coerced, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    """UserError with a line for every key of `raw` that is wrong by itself, as `validate` has it.

    What a validator of the model says of several keys together is left out.
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


def suggestion(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"


def _describe(model: type[BaseModel], detail: Any, prefix: str) -> str:
    """One line for one of pydantic's errors. Validators of ours begin their messages with the key below their model."""
    kind, found = detail["type"], detail["input"]
    words, _ = _follow(model, detail["loc"])
    path = ".".join([prefix, *words] if prefix else words)
    if kind == "extra_forbidden":
        _, holders = _follow(model, detail["loc"][:-1])
        return f"{path}: unknown key; {suggestion(words[-1], [key for part in holders for key in part.model_fields])}"
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


def _follow(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Pydantic's path as the user wrote it, and the models among which it ends."""
    words: list[str] = []
    here = _alternatives(model)
    for part in location:
        if part != "[key]":
            words.append(str(part))
        here = [deeper for found in here for deeper in _below(found, part)]
    return words, _models(here)


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    return [found for found in annotations if isinstance(found, type) and issubclass(found, BaseModel)]


def _alternatives(annotation: Any) -> list[Any]:
    """A type without `Annotated`, and every member of a union."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for member in get_args(annotation) for found in _alternatives(member)]
    return [annotation]


def _below(annotation: Any, part: int | str) -> list[Any]:
    """What lies in a model, mapping or sequence of this type under the key or place `part`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return _alternatives(field.annotation) if field else []
    members = get_args(annotation)
    return _alternatives(members[-1]) if members else []
