"""Running out of RAM or GPU memory: the message says what was being computed and what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from udaseg.errors import UserError

# In messages of the CPU's allocator, and of CUDA's libraries, which allocate for themselves.
SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@contextmanager
def explain_out_of_memory(doing: str, advice: str) -> Iterator[None]:
    """Raise UserError "out of memory {doing} … {advice}" if the body runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in SIGNS):
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"out of memory {doing} ({said}). {advice}") from None
        raise
