"""What a report is told of the fields that are `paper` or `released`, since it cannot load the methods itself."""

from pydantic import BaseModel

from udaseg.config.recipes import Rounds
from udaseg.config.training import LabelledTarget, Network
from udaseg.runs.spec import FidelityField

PARAMETERS: dict[str, type[BaseModel]] = {"network": Network, "labelled_target": LabelledTarget, "rounds": Rounds}


def fidelity_fields() -> list[FidelityField]:
    """Every such field of the parameters and of the methods' knobs, with its default and what each value does."""
    from udaseg.methods import METHODS
    from udaseg.methods.knobs import knobs

    models = PARAMETERS | {name: METHODS[name].SPEC.Config for name in METHODS}
    return [
        FidelityField(
            owner=owner, name=knob.name, default=knob.default or "paper", paper=knob.paper, released=knob.released
        )
        for owner, model in models.items()
        for knob in knobs(model)
        if knob.released
    ]
