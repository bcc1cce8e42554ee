"""Plain data into strict models; messages name the key's path, the value, what is allowed and what was meant."""

import difflib
import json
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from udaseg.errors import UserError

M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Unknown keys are refused, nothing is coerced, nothing can be changed afterwards."""

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
    words, reached = _follow(model, detail["loc"])
    path = ".".join([prefix, *words] if prefix else words)
    if kind == "extra_forbidden":
        _, holders = _follow(model, detail["loc"][:-1])
        return f"{path}: unknown key; {suggestion(words[-1], [key for part in holders for key in part.model_fields])}"
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{path}.{message}" if path else message
    if kind == "missing":
        return f"{path}: is required, but not given"
    if kind == "union_tag_not_found":
        return f"{path}.kind: is required, but not given; known: {', '.join(_tags(reached))}"
    if kind == "union_tag_invalid":
        return f"{path}.kind: '{detail['ctx']['tag']}' is not known; {suggestion(detail['ctx']['tag'], _tags(reached))}"
    message = f"{path}: {detail['msg']}, found {json.dumps(found)[:200]}"
    if kind in ("float_type", "int_type") and isinstance(found, str) and _is_number(found):
        # YAML 1.1 wants a point in a number with an exponent, and takes 1e-4 for text.
        message += f"; YAML reads this as text: write {_with_point(found)}"
    if kind == "literal_error" and isinstance(found, str):
        allowed = [part.strip("'") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        message += "; " + suggestion(found, allowed) if difflib.get_close_matches(found, allowed, n=1) else ""
    return message


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_point(text: str) -> str:
    mantissa, mark, exponent = text.lower().partition("e")
    if not mark:
        return f"{text} without quotes"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def _follow(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Pydantic's path as the user wrote it, without the tags of unions, and the models among which it ends."""
    words: list[str] = []
    here = _alternatives(model)
    for part in location:
        models = _models(here)
        if len(models) > 1 and part in _tags(models):
            here = [found for found in models if part in _tags([found])]
            continue
        if part != "[key]":
            words.append(str(part))
        here = [deeper for found in here for deeper in _below(found, part)]
    return words, _models(here)


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    return [found for found in annotations if isinstance(found, type) and issubclass(found, BaseModel)]


def _tags(models: Iterable[type[BaseModel]]) -> list[str]:
    return [tag for found in models if "kind" in found.model_fields for tag in get_args(_kind(found))]


def _kind(model: type[BaseModel]) -> Any:
    annotation = model.model_fields["kind"].annotation
    return annotation if get_origin(annotation) is Literal else None


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
