"""How a method gets source images in the target's look: a trained CycleGAN, or a rule without any training.

Only with the translator `cyclegan` is what stands on this named as published; `translator_qualifier` says the others.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.methods.base import Context, Knobs
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
    # What gives source images the target's look: a finished run of the method cyclegan (role "translator"), the mean
    # and spread of a target image's colours in LAB, its low frequencies (FDA), or nothing.
    translator: Literal["cyclegan", "lab", "fourier", "identity"] = "cyclegan"
    # Half the side of the square of exchanged frequencies, as a share of the shorter side (FDA 0.01, 0.05, 0.09).
    fourier_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.01


def translator_roles(knobs: TranslatorKnobs) -> tuple[str, ...]:
    """Roles that the translator needs weights for: ("translator",) or none."""
    return (ROLE,) if knobs.translator == "cyclegan" else ()


def translator_views(knobs: TranslatorKnobs) -> frozenset[str]:
    """Views of the batch, besides the source's, that the translator looks at."""
    return frozenset({"target"}) if knobs.translator in ("lab", "fourier") else frozenset()


def translator_qualifier(knobs: TranslatorKnobs) -> str:
    """What a report adds to the title of a recipe; empty with the published kind of translator."""
    return QUALIFIERS[knobs.translator]


class Translator(nn.Module):
    """Source images in the target's look, without a graph. It is no part of the state: nothing in it ever changes.

    Args:
        knobs: which kind.
        initial: role -> where its weights are from, and the tensors, see `Context.initial`.

    Raises:
        UserError: the weights of a CycleGAN's generator are not given, or are something else's.
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
    def forward(self, source: Tensor, target: Tensor | None, generator: torch.Generator) -> Tensor:
        """Source images (B, 3, H, W), RGB in [0, 1] -> the same in the target's look.

        Args:
            source: float, (B, 3, H, W) in [0, 1].
            target: (B', 3, H', W'), needed by the kinds lab and fourier only: image i lends its look to source image i,
                repeated from the first one on where there are fewer, resized where the size is another.
            generator: for translators that draw. None of these does: each is a function of the images.

        Raises:
            ValueError: a needed target is not given.
        """
        with torch.autocast(source.device.type, enabled=False):  # images are not to be rounded
            if self.net is not None:
                translated: Tensor = self.net(source)
                return translated
            if self.knobs.translator == "identity":
                return source
            if target is None or not target.numel():
                raise ValueError(f"the translator '{self.knobs.translator}' looks at target images, and none is given")
            looks = resize(target[torch.arange(len(source), device=target.device) % len(target)], source.shape[-2:])
            if self.knobs.translator == "lab":
                return lab_transfer(source, looks)
            return fourier_transfer(source, looks, self.knobs.fourier_share)


def build_translator(context: Context, knobs: TranslatorKnobs) -> Translator:
    """The translator of a run. Raises UserError when the role "translator" has no weights of a CycleGAN's generator."""
    return Translator(knobs, context.initial)
