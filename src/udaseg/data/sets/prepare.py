"""Preparing a data set: built, checked, given a contact sheet, and published as a whole.

The contact sheet is drawn here and not in `build`, so that its layout is no part of a set's address.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from udaseg.data.datasets.base import Dataset
from udaseg.data.sets.build import build
from udaseg.data.sets.contact_sheet import contact_sheet
from udaseg.data.sets.images import write_png
from udaseg.data.sets.read import PreparedSet
from udaseg.runs.folder import appearing


def prepare(
    name: str,
    dataset: Dataset,
    spec: dict[str, Any],
    classes: Sequence[str],
    size: tuple[int, int] | None,
    destination: Path,
) -> None:
    """Write the prepared set `destination` (see `PreparedSet`), which appears by rename when everything in it is right.

    Arguments and errors are those of `build`. An older `destination` is replaced. Only one process at a time may write
    it; the caller sees to that.
    """
    with appearing(destination) as folder:
        build(name, dataset, spec, classes, size, folder)
        write_png(folder / "contact.png", np.asarray(contact_sheet(PreparedSet(folder))))
