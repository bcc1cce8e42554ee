"""AdaptSegNet: adversarial alignment of the output space, at one or two levels.

Tsai et al., "Learning to Adapt Structured Output Space for Semantic Segmentation", CVPR 2018, arXiv 1802.10349.

Loss of the segmenter: L_seg + w_aux L_seg_aux + w_adv L_adv + w_adv_aux L_adv_aux. L_adv is small when the
discriminator takes the softmax maps of target images for those of source images (eq. 4). Loss of the discriminators:
the mean of the domain losses on source and target maps (eq. 1). They see the maps from before the segmenter's update,
and all networks are stepped together.

Differences from the paper
- The discriminator's output is at 1/32 of the image size, as released; the paper's text describes an upsampling layer.
- SGD without Nesterov momentum, as released.
- The domain labels are 0 for source and 1 for target, as released; the paper swaps them, which makes no difference.
Differences from the released code
- If all labels of a batch are ignored, the loss is 0; the release gives NaN.
- One discriminator term serves both levels. It is off if both adversarial weights are 0.
ProDA's warm-up is this method with one level, `gan: least_squares`, `discriminator: proda` and the loss weights adv
0.01 and disc 2 (its release does not halve the discriminator's losses).
"""

from collections.abc import Generator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import (
    Context,
    Knobs,
    Method,
    MethodSpec,
    OptimizerFactory,
    Step,
    Supervised,
    Terms,
    supervised,
)
from udaseg.nets.discriminators import PatchDiscriminator, ProdaDiscriminator
from udaseg.ops.adversarial import adversarial_loss, discriminator_losses
from udaseg.types import Positive

DISCRIMINATORS = {"adaptsegnet": PatchDiscriminator, "proda": ProdaDiscriminator}


class Config(Knobs):
    levels: Literal[1, 2] = 1
    """Levels of alignment: 2 adds a head at the stage before the last. The authors advise 1 since PyTorch 0.4."""

    gan: Literal["vanilla", "least_squares"] = "vanilla"
    """Adversarial loss. Paper vanilla; least_squares goes with the loss weight adv 0.01 (released)."""

    discriminator: Literal["adaptsegnet", "proda"] = "adaptsegnet"
    """Architecture of the discriminator: 4x4 convolutions, or ProDA's 3x3 ones with a last 1x1 (both released)."""

    width: Positive = 64
    """Channels of the discriminator's first layer. Paper and released 64."""

    layers: Annotated[int, Field(ge=2, le=5)] = 5
    """Layers of the discriminator, each of stride 2 (proda: all but the last). Paper and released 5."""

    discriminator_lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the discriminators' Adam, which follows the segmenter's schedule. Paper and released 1e-4."""


class Weights(Supervised):
    seg_aux: float = 0.1
    """Cross-entropy of the auxiliary head, with two levels. Paper and released 0.1."""

    adv: float = 1e-3
    """Adversarial loss of the final head. Paper 1e-3; since PyTorch 0.4 the README gives 5e-4 for two levels."""

    adv_aux: float = 2e-4
    """Adversarial loss of the auxiliary head, with two levels. Paper 2e-4; since PyTorch 0.4 the README gives 5e-5."""

    disc: float = 1.0
    """Domain losses of the discriminators. Paper and released 1; ProDA's warm-up 2."""


SPEC: MethodSpec = MethodSpec(
    name="adaptsegnet",
    Config=Config,
    Weights=Weights,
    views={
        "seg": {"source"},
        "seg_aux": {"source"},
        "adv": {"target"},
        "adv_aux": {"target"},
        "disc": {"source", "target"},
    },
    terms=lambda knobs: ["seg", "adv", "disc"] if knobs.levels == 1 else SPEC.weights,
    requires={"disc": ("adv", "adv_aux")},
    idle=lambda knobs, weights: {
        prefix: reason
        for prefix, used, reason in (
            ("net.aux_head.", "seg_aux" in weights or "adv_aux" in weights, "seg_aux and adv_aux are off"),
            ("discriminators.main.", "adv" in weights and "disc" in weights, "adv or disc is off"),
            ("discriminators.aux.", "adv_aux" in weights and "disc" in weights, "adv_aux or disc is off"),
        )
        if not used
    },
)


class AdaptSegNet(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context, levels=context.knobs.levels)
        self.knobs: Config = context.knobs
        self.discriminators = nn.ModuleDict()
        for index, level in enumerate(["main", "aux"][: self.knobs.levels]):
            self.discriminators[level] = context.build(
                lambda: DISCRIMINATORS[self.knobs.discriminator](
                    len(context.classes), self.knobs.width, self.knobs.layers
                ),
                "discriminator",
                index,
            )

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        source = self.net(batch.source.image)
        terms = {"seg": supervised(source.logits, batch.source)}
        if step.active("seg_aux"):
            terms["seg_aux"] = supervised(source.aux_logits, batch.source)
        yield terms

        maps_source = {"main": source.logits.detach()}
        if source.aux_logits is not None:
            maps_source["aux"] = source.aux_logits.detach()
        del source, terms  # frees the source graph before the target's is built
        levels = {level: term for level, term in {"main": "adv", "aux": "adv_aux"}.items() if step.active(term)}
        if not levels:
            return
        target = self.net(batch.target.image)
        maps_target = {"main": target.logits, "aux": target.aux_logits}
        size, size_source = batch.target.image.shape[-2:], batch.source.image.shape[-2:]
        yield {
            term: adversarial_loss(self.discriminators[level], maps_target[level], size, self.knobs.gan)
            for level, term in levels.items()
        }

        if step.active("disc"):
            found = {
                level: discriminator_losses(
                    self.discriminators[level],
                    (maps_source[level], size_source),
                    (maps_target[level], size),
                    self.knobs.gan,
                )
                for level in levels
            }
            for level, losses in found.items():
                step.log("domain_accuracy" if level == "main" else "domain_accuracy_aux", losses.accuracy)
            yield {"disc": torch.stack([losses.source + losses.target for losses in found.values()]).sum()}

    def optimizers(self, optim: OptimizerFactory) -> dict[str, Optimizer]:
        return super().optimizers(optim) | {
            "discriminators": optim.adam(self.discriminators, self.knobs.discriminator_lr),
        }
