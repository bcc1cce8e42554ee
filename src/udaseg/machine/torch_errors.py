"""Errors of PyTorch's deterministic mode, explained as what they are: something that a parameter decides."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from udaseg.errors import UserError

REFUSED = re.compile(r"(\S[^\n]*?) does not have a deterministic implementation")


@contextmanager
def nondeterminism_explained(job: str) -> Iterator[None]:
    """Raises UserError in place of PyTorch's error about an operator of `job` that has no deterministic form."""
    try:
        yield
    except RuntimeError as error:
        if (refused := REFUSED.search(str(error))) is None:
            raise
        raise UserError(
            f"{job}: uses the operator {refused[1]}, which is not deterministic on this device and therefore refused "
            "under train.determinism: strict; switch off the term or module that uses it, or set train.determinism: "
            "warn, with which a rerun may give other bytes"
        ) from error
