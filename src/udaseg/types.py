"""Types that many parameters share and the one constant of all label maps, each defined once."""

from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Positive, Positive]  # height and width, in pixels
Split = Literal["train", "val", "test"]
Scored = Literal["val", "test"]  # splits whose labels are kept at native size, too
Fidelity = Literal["paper", "released"]  # where the released code does something else than the paper says

IGNORE = 255  # label of a pixel that neither trains nor scores, everywhere in this project
