"""Source images in the target's look: by a trained CycleGAN, or by a rule without any training.

Only with the translator `cyclegan` does a method keep its published name; `translator_qualifier` names the others.
"""

from collections.abc import Mapping, Set
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.methods.base import Knobs
from udaseg.nets.teacher import Frozen
from udaseg.nets.translator import Generator
from udaseg.ops.maps import resize
from udaseg.ops.translation import fourier_transfer, lab_transfer

ROLE = "translator"
QUALIFIERS = {
    "cyclegan": "",
    "lab": "LAB translation",
    "fourier": "Fourier translation",
    "identity": "no translation",
}


class TranslatorKnobs(Knobs):
    translator: Literal["cyclegan", "lab", "fourier", "identity"] = "cyclegan"
    """What gives source images the target's look. Paper: a CycleGAN; released: a translator of its own.

    cyclegan: a finished run of that method (role "translator"); lab: the mean and standard deviation of a target
    image's colours in LAB; fourier: its low frequencies (FDA); identity: nothing.
    """

    fourier_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Half the side of the square of exchanged frequencies, as a share of the image's shorter side. FDA 0.01."""


def translator_roles(knobs: TranslatorKnobs) -> tuple[str, ...]:
    """Roles for which the translator needs weights: ("translator",) or none."""
    return (ROLE,) if knobs.translator == "cyclegan" else ()


def translator_views(knobs: TranslatorKnobs) -> Set[str]:
    """Views of the batch that the translator needs besides the source's."""
    return {"target"} if knobs.translator in ("lab", "fourier") else set()


def translator_qualifier(knobs: TranslatorKnobs) -> str:
    """What a report adds to the title of a recipe; empty for the published kind of translator."""
    return QUALIFIERS[knobs.translator]


class Translator(nn.Module):
    """Translates source images, without a graph. It never changes, and so is not part of a method's state.

    Args:
        knobs: the kind of translator.
        initial: role -> the origin of its weights, and the tensors, see `Context.initial`.

    Raises:
        UserError: the weights of a CycleGAN's generator are missing, or are those of another network.
    """

    def __init__(self, knobs: TranslatorKnobs, initial: Mapping[str, tuple[str, Mapping[str, Tensor]]]) -> None:
        super().__init__()
        self.knobs = knobs
        self.net: Frozen | None = None
        if knobs.translator == "cyclegan":
            if ROLE not in initial:
                raise UserError(
                    f"init.{ROLE}: has no weights; name an earlier stage of the method cyclegan, or set "
                    "knobs.translator to lab, fourier or identity"
                )
            origin, tensors = initial[ROLE]
            self.net = Frozen(Generator.from_tensors(tensors, f"init.{ROLE}: {origin}"))

    @torch.no_grad()
    def forward(self, source: Tensor, target: Tensor | None) -> Tensor:
        """Source images in the target's look, (B, 3, H, W), RGB in [0, 1].

        Args:
            source: float, (B, 3, H, W) in [0, 1].
            target: (B', 3, H', W'), needed by the kinds lab and fourier only. Source image i takes the look of target
                image i, modulo B'; the target is resized if its size differs.

        Raises:
            ValueError: a target is needed but not given.
        """
        with torch.autocast(source.device.type, enabled=False):  # half precision would round the images
            if self.net is not None:
                translated: Tensor = self.net(source)
                return translated
            if self.knobs.translator == "identity":
                return source
            if target is None or not target.numel():
                raise ValueError(f"the translator '{self.knobs.translator}' needs target images, but none is given")
            looks = resize(target[torch.arange(len(source), device=target.device) % len(target)], source.shape[-2:])
            if self.knobs.translator == "lab":
                return lab_transfer(source, looks)
            return fourier_transfer(source, looks, self.knobs.fourier_share)
