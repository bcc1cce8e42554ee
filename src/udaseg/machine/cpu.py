"""CPU instructions by the spec alone, so that results need not depend on the generation of the CPU.

PyTorch and the libraries under it choose their code by the CPU that they find, and sums in another order have other
last bits. `portable` holds all of them to what x86 CPUs of 2017 and later have, AMD's as Intel's. They read these
variables once, while they are loaded.
"""

import os
import sys

from udaseg.config.training import Exactness
from udaseg.errors import UserError

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_CBWR": "COMPATIBLE",  # matrix products; its AVX2 branch is for Intel's CPUs only
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # those that it has code for and AVX2 is not enough
}


def limit_instructions(exactness: Exactness) -> None:
    """Set the variables for `portable`; for `native` take away any that are there, which no spec speaks of.

    Raises RuntimeError when it is too late for `portable`.
    """
    if exactness.instructions == "native":
        for name in PORTABLE:
            os.environ.pop(name, None)
    elif not _are_set() and not {"torch", "numpy"}.isdisjoint(sys.modules):
        raise RuntimeError("limit_instructions() was called after torch or numpy was loaded: it would have no effect")
    else:
        os.environ.update(PORTABLE)


def limit_numpy() -> None:
    """A prepared set has no mode: NumPy, all that computes it, is always held to the instructions of `portable`."""
    os.environ["NPY_DISABLE_CPU_FEATURES"] = PORTABLE["NPY_DISABLE_CPU_FEATURES"]


def require_instructions(exactness: Exactness, capability: str) -> None:
    """UserError where `portable` is asked for and not in force; `capability` is what PyTorch says it uses."""
    if exactness.instructions == "portable" and not (_are_set() and capability == "AVX2"):
        raise UserError(
            "train.instructions: portable needs an x86 CPU with AVX2 and a start by the command `udaseg`; here PyTorch "
            f"uses {capability}. Set train.instructions: native, whose results are exact on this CPU only"
        )


def _are_set() -> bool:
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())
