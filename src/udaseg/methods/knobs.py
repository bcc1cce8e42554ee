"""What the strings under the fields of a model say. Every list of knobs elsewhere is made from this."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Knob:
    """A knob or a loss weight."""

    name: str
    default: Any  # plain data; None if there is none
    type: str  # such as `int`, `[float, float]` or `paper | released`
    description: str
    paper: str  # what the value `paper` does; empty for a knob without such values
    released: str

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=\.)\s", self.description, maxsplit=1)[0]


def knobs(model: type[BaseModel]) -> list[Knob]:
    """The fields of a model, such as a SPEC's Config or Weights, in their order."""
    found = []
    for name, field in model.model_fields.items():
        text = field.description or ""
        default = None if field.is_required() else field.default
        found.append(
            Knob(
                name=name,
                default=list(default) if isinstance(default, tuple) else default,
                type=_type(field.annotation),
                description=re.split(r"^paper: ", text, maxsplit=1, flags=re.MULTILINE)[0].strip(),
                paper=_what(text, "paper"),
                released=_what(text, "released"),
            )
        )
    return found


def _what(text: str, value: str) -> str:
    """What the line `value: ...` of a description says, in one line; empty if there is none."""
    line = re.search(rf"^{value}: (.+?)(?=^\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(line[1].split()) if line else ""


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is tuple:
        return f"[{', '.join('...' if part is Ellipsis else _type(part) for part in parts)}]"
    return str(annotation.__name__)
