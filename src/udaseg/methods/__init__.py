"""The methods by name. To add one, write its file and add its line here."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from udaseg.errors import UserError

if TYPE_CHECKING:
    from udaseg.methods.base import Method


class Lookup(Mapping[str, "type[Method]"]):
    """Name -> the method's class, whose module is imported when it is first asked for."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, name: str) -> "type[Method]":
        """The class. UserError when its line names something that is not there, or another method's class."""
        place, _, attribute = self._classes[name].rpartition(".")
        try:
            found: type[Method] = getattr(importlib.import_module(place), attribute)
        except ModuleNotFoundError as error:
            if not f"{place}.".startswith(f"{error.name}."):
                raise  # the file is there, and what is missing is something that it imports
            raise UserError(f"{self._line(name)}: there is no module {place}; name the method's file") from None
        except AttributeError:
            raise UserError(f"{self._line(name)}: {place} has no {attribute}; name the method's class") from None
        if found.SPEC.name != name:
            raise UserError(
                f"{self._line(name)}: the SPEC of {attribute} has the name '{found.SPEC.name}'; both must be equal"
            )
        return found

    def module(self, name: str) -> str:
        """The module of a method below the package, such as "methods.dann"; it is not imported."""
        return self._classes[name].rpartition(".")[0].partition(".")[2]

    def _line(self, name: str) -> str:
        return f'METHODS (udaseg/methods/__init__.py), "{name}": "{self._classes[name]}"'


METHODS = Lookup(
    {
        "source_only": "udaseg.methods.source_only.SourceOnly",
        "oracle": "udaseg.methods.oracle.Oracle",
        "adabn": "udaseg.methods.adabn.AdaBN",
        "dann": "udaseg.methods.dann.DANN",
        "adaptsegnet": "udaseg.methods.adaptsegnet.AdaptSegNet",
        "cbst": "udaseg.methods.cbst.CBST",
        "dacs": "udaseg.methods.self_training.dacs.DACS",
        "daformer": "udaseg.methods.self_training.daformer.DAFormer",
        "proda": "udaseg.methods.proda.proda.ProDA",
        "proda_distill": "udaseg.methods.proda.distill.ProDADistill",
        "cpsl": "udaseg.methods.self_training.cpsl.CPSL",
        "plca": "udaseg.methods.plca.PLCA",
        "memory_bank": "udaseg.methods.memory_bank.MemoryBank",
        "pipa": "udaseg.methods.self_training.pipa.PiPa",
        "dacs_pipa": "udaseg.methods.self_training.dacs_pipa.DACSPiPa",
        "dacs_cpsl": "udaseg.methods.self_training.dacs_cpsl.DACSCPSL",
        "cyclegan": "udaseg.methods.cyclegan.CycleGAN",
        "diga_warmup": "udaseg.methods.diga.warmup.DiGAWarmup",
        "diga": "udaseg.methods.diga.diga.DiGA",
    }
)
