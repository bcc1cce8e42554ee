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
        """The class. UserError if the method's line does not name it."""
        place, _, attribute = self._classes[name].rpartition(".")
        line = f'METHODS in udaseg/methods/__init__.py, "{name}": "{self._classes[name]}"'
        try:
            module = importlib.import_module(place or attribute)
        except ModuleNotFoundError as error:
            if not f"{place or attribute}.".startswith(f"{error.name}."):
                raise  # the method's file is there, and imports what is not
            raise UserError(f"{line}: there is no module {place or attribute}; name the file and its class") from None
        found: type[Method] | None = getattr(module, attribute, None)
        if found is None or not hasattr(found, "SPEC"):
            raise UserError(f"{line}: {place} has no method {attribute}; name the method's class")
        if found.SPEC.name != name:
            raise UserError(f"{line}: the SPEC of {attribute} has the name '{found.SPEC.name}'; make both equal")
        return found

    def module(self, name: str) -> str:
        """The module of a method below the package, such as "methods.dann"; it is not imported."""
        return self._classes[name].rpartition(".")[0].partition(".")[2]


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
