"""The methods by name. To add one, write its file beside these and add its line here."""

from udaseg.methods.adabn import AdaBN
from udaseg.methods.adaptsegnet import AdaptSegNet
from udaseg.methods.base import Method
from udaseg.methods.cbst import CBST
from udaseg.methods.cpsl import CPSL
from udaseg.methods.cyclegan import CycleGAN
from udaseg.methods.dacs import DACS
from udaseg.methods.dacs_cpsl import DACSCPSL
from udaseg.methods.dacs_pipa import DACSPiPa
from udaseg.methods.daformer import DAFormer
from udaseg.methods.dann import DANN
from udaseg.methods.diga import DiGA
from udaseg.methods.diga_warmup import DiGAWarmup
from udaseg.methods.memory_bank import MemoryBank
from udaseg.methods.oracle import Oracle
from udaseg.methods.pipa import PiPa
from udaseg.methods.plca import PLCA
from udaseg.methods.proda import ProDA
from udaseg.methods.proda_distill import ProDADistill
from udaseg.methods.source_only import SourceOnly

METHODS: dict[str, type[Method]] = {
    "source_only": SourceOnly,
    "oracle": Oracle,
    "adabn": AdaBN,
    "dann": DANN,
    "adaptsegnet": AdaptSegNet,
    "cbst": CBST,
    "dacs": DACS,
    "daformer": DAFormer,
    "proda": ProDA,
    "proda_distill": ProDADistill,
    "cpsl": CPSL,
    "plca": PLCA,
    "memory_bank": MemoryBank,
    "pipa": PiPa,
    "dacs_pipa": DACSPiPa,
    "dacs_cpsl": DACSCPSL,
    "cyclegan": CycleGAN,
    "diga_warmup": DiGAWarmup,
    "diga": DiGA,
}
