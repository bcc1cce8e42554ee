"""Memory that does not suffice: what was computed then, and what to lower, in place of an allocator's traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from udaseg.errors import UserError

# Of the CPU's allocator, and of CUDA's libraries, which ask for memory of their own.
SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@contextmanager
def memory_named(doing: str, advice: str) -> Iterator[None]:
    """UserError "out of memory {doing} … {advice}" where the body needs more memory than there is."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in SIGNS):
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"out of memory {doing} ({said}). {advice}") from None
        raise
