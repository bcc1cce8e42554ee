"""A refusal by PyTorch's deterministic mode, told as what it is: something that a parameter decides."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from udaseg.errors import UserError

REFUSED = re.compile(r"(\S[^\n]*?) does not have a deterministic implementation")


@contextmanager
def told_refusals(job: str) -> Iterator[None]:
    """UserError in the place of PyTorch's error about an operator without a deterministic form; `job` needed it."""
    try:
        yield
    except RuntimeError as error:
        if (refused := REFUSED.search(str(error))) is None:
            raise
        raise UserError(
            f"{job}: uses the operator {refused[1]}, which is not deterministic on this device and thus refused under "
            "train.determinism: strict; switch off the term or module that brings it in, or set train.determinism: "
            "warn, with which a rerun may give other bytes"
        ) from error
