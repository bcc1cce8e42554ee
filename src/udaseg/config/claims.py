"""What papers claim about their methods, as data."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from udaseg.types import Name, Words
from udaseg.validation import Model


class Pair(Model):
    """Two rows, of which a claim says that one is better."""

    better: Words
    """The row that should score higher."""
    than: Words
    """The row that should score lower."""


class Claim(Model):
    """One claim: that rows are better than others, in all of `pairs`, or that rows are about as good as another one."""

    name: Name
    """Identifies the claim."""
    claim: Words
    """What is claimed, in our words."""
    paper: Words
    """The paper that claims it."""
    where: Words
    """Place in the paper: table, figure or section."""
    pairs: list[Pair] = Field(default=[])
    """Comparisons that must all hold."""
    alike: list[Words] = Field(default=[])
    """Rows that score about as the row `to` does."""
    to: Words | None = None
    """The row to which those of `alike` are compared."""
    margin: Annotated[float, Field(gt=0)] | None = None
    """Largest difference to either side that still counts as alike, in percentage points."""
    classes: Literal["rare"] | list[Name] | None = None
    """Classes whose mIoU is compared; null: those of the headline."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Claim":
        given = bool(self.alike), self.to is not None, self.margin is not None
        if bool(self.pairs) == any(given) or any(given) != all(given):
            raise ValueError("pairs: give either `pairs`, or all of `alike`, `to` and `margin`")
        if self.classes == []:
            raise ValueError("classes: is empty; leave it out for those of the headline")
        return self

    def rows(self) -> list[str]:
        """Every row that the claim needs, once."""
        pairs = (row for pair in self.pairs for row in (pair.better, pair.than))
        return list(dict.fromkeys([*pairs, *self.alike, *([] if self.to is None else [self.to])]))
