"""PiPa's contrasts of pixels and patches (`contrast`) on DACS (`dacs`).

Not in the paper, which uses DAFormer and HRDA. With the weight of `patch` at 0 it is DACS with a contrast of source
pixels; with both weights at 0 it is DACS.
"""

from udaseg.methods.self_training.contrast import ContrastKnobs, ContrastWeights, WithContrast, with_contrast
from udaseg.methods.self_training.dacs import SPEC as HOST
from udaseg.methods.self_training.dacs import Config as HostConfig
from udaseg.methods.self_training.dacs import Weights as HostWeights


class Config(HostConfig, ContrastKnobs):
    pass


class Weights(ContrastWeights, HostWeights):
    pass


class DACSPiPa(WithContrast):
    SPEC = with_contrast(HOST, "dacs_pipa", Config, Weights)
    knobs: Config
