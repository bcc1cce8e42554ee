"""PiPa's pixel and patch contrast on DACS: see `pipa` for the plug-in, `dacs` for the host.

Not in the paper, which stands on DAFormer and HRDA. With the weight of `patch` at 0 it is DACS with a contrast of
source pixels; with both at 0 it is DACS.
"""

from udaseg.methods.self_training.dacs import DACS
from udaseg.methods.self_training.dacs import SPEC as HOST
from udaseg.methods.self_training.host import HostKnobs
from udaseg.methods.self_training.pipa import ContrastKnobs, WithContrast, with_contrast


class Config(HostKnobs, ContrastKnobs):
    pass


class DACSPiPa(WithContrast, DACS):
    SPEC = with_contrast(HOST, "dacs_pipa", Config)
    knobs: Config
