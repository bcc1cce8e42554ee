"""CPU instruction sets chosen by the spec, so that results need not depend on the generation of the CPU.

PyTorch and the libraries under it choose their code by the CPU they find, and sums in another order differ in their
last bits. `portable` restricts all of them to the instructions that x86 CPUs by AMD and Intel have had since 2017. The
libraries read these variables once, while they are loaded.
"""

import os
import sys

from udaseg.config.training import Exactness
from udaseg.errors import UserError

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_CBWR": "COMPATIBLE",  # matrix products; its AVX2 branch is for Intel's CPUs only
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all beyond AVX2 that NumPy has code for
}


def limit_instructions(exactness: Exactness) -> None:
    """Set the variables for `portable`; for `native`, remove any that the user's environment may have.

    Raises RuntimeError when torch or numpy is loaded already, which is too late for `portable`.
    """
    if exactness.instructions == "native":
        for name in PORTABLE:
            os.environ.pop(name, None)
    elif not _are_set() and not {"torch", "numpy"}.isdisjoint(sys.modules):
        raise RuntimeError("limit_instructions() was called after torch or numpy was loaded: it would have no effect")
    else:
        os.environ.update(PORTABLE)


def limit_numpy() -> None:
    """Restrict NumPy, which computes prepared sets, to the instructions of `portable`: sets have no such option."""
    os.environ["NPY_DISABLE_CPU_FEATURES"] = PORTABLE["NPY_DISABLE_CPU_FEATURES"]


def require_instructions(exactness: Exactness, capability: str) -> None:
    """Raises UserError if `portable` is requested but not in force; `capability` is what PyTorch reports to use."""
    if exactness.instructions == "portable" and not (_are_set() and capability == "AVX2"):
        raise UserError(
            "train.instructions: portable needs an x86 CPU with AVX2 and a start by the command `udaseg`; here PyTorch "
            f"uses {capability}. Set train.instructions: native, with which results are exact on this CPU only"
        )


def _are_set() -> bool:
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())
