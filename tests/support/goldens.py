"""How arrays of golden files reach the product's functions. Names and shapes only: the arithmetic is the product's.

A file `<method>.<function>.<case>.npz` belongs to the group `<method>.<function>` of `CASES`. `run` takes its arrays
and returns the outputs that are compared, under the file's own keys. `test_goldens.py` refuses arithmetic in here.
"""

from support.golden_groups import (
    adversarial,
    cbst,
    cpsl,
    diga,
    memory_bank,
    pipa_patch,
    pipa_pixel,
    plca,
    plca_source,
    proda,
    proda_geometry,
    proda_networks,
    self_training,
)
from support.golden_groups.base import Golden

CASES: dict[str, Golden] = {
    **adversarial.CASES,
    **cbst.CASES,
    **cpsl.CASES,
    **diga.CASES,
    **memory_bank.CASES,
    **pipa_patch.CASES,
    **pipa_pixel.CASES,
    **plca.CASES,
    **plca_source.CASES,
    **proda.CASES,
    **proda_geometry.CASES,
    **proda_networks.CASES,
    **self_training.CASES,
}
