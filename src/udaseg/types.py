"""Types that many parameters share and the one constant of all label maps, each defined once."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Positive, Positive]  # height and width, in pixels
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Split = Literal["train", "val", "test"]
Scored = Literal["val", "test"]  # splits whose labels are kept at native size, too
Fidelity = Literal["paper", "released"]  # follow the paper, or the released code where the two differ
IGNORE = 255  # label of a pixel that neither trains nor scores, everywhere in this project

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,39}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]  # safe as a part of a path
PathText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./${}:~,+@=-]{1,400}$")]  # safe in a shell command
UserPath = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,400}$")]  # never part of a shell command
PointName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:()+-]{1,80}$")]  # of a point of a sweep
Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]
