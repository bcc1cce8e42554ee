"""CycleGAN: a translator, trained without pairs, that gives source images the target's look. It predicts no labels.

Zhu, Park, Isola & Efros, "Unpaired Image-to-Image Translation Using Cycle-Consistent Adversarial Networks", ICCV 2017,
arXiv 1703.10593. A further term keeps the boundaries of the source's label map, as in DiGA's translator (Shen et al.,
CVPR 2023).

Loss of the generators G (source to target) and F (back): L_adv + w_cycle L_cycle + w_identity L_identity + w_edge
L_edge. L_adv is small when each critic takes a translated image for a real one of its domain (squared distance).
L_cycle: L1 distance of F(G(s)) to s and of G(F(t)) to t. L_identity: L1 distance of G(t) to t and of F(s) to s, so that
an image that already has the look is not changed. L_edge: see `ops.edges`. Loss of the critics: half the squared
distances of real images to 1 and of translated ones to 0. All networks are stepped together, the critics on the
translations from before the generators' step.

The predictor is G. A later stage of DiGA takes it as its `translator`.

Differences from the paper
- The critics see only the translations of the current step; the paper also shows them a history of 50.
- A generator changes the logits of the input's colours and starts as the identity (`nets.translator`). It upsamples by
  interpolation and convolution instead of transposed convolutions, pads with zeros, and has 3x3 convolutions at both
  ends.
- The critics have three layers without normalisation and patches of 22 pixels (paper: five layers, 70 pixels), since
  colours and textures are what has to be transferred.
- The learning rates follow the run's schedule; the paper's are constant in the first half and fall linearly in the
  second.
Differences from DiGA's release (its own translator, with two encoders and two decoders)
- One generator for each direction, and no perceptual term, which would need a VGG network's weights. The release's
  self-reconstruction (weight 0.001) is for its shared encoders; L_identity takes its place.
- One critic scale instead of three; adversarial weight 1 (released 0.5).
- L_edge compares the change of brightness at boundaries instead of the colours there, so that colours may change.
"""

from collections.abc import Generator
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Knobs, LossWeights, Method, MethodSpec, OptimizerFactory, Step, Terms
from udaseg.nets.discriminators import PatchDiscriminator
from udaseg.nets.translator import Generator as ImageGenerator
from udaseg.ops.adversarial import SOURCE, TARGET, domain_accuracy, domain_loss, frozen
from udaseg.ops.edges import edge_loss
from udaseg.types import Positive

BETAS = (0.5, 0.999)  # Adam's, as in the paper's and DiGA's release


class Config(Knobs):
    width: Positive = 64
    """Channels of a generator at full resolution. Paper 64."""

    blocks: Annotated[int, Field(ge=0)] = 6
    """Residual blocks of a generator. Paper 6 for crops of 128 pixels, 9 from 256 on."""

    generator_lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of the generators' Adam. Paper 2e-4, DiGA's release 1e-4."""

    critic_width: Positive = 64
    """Channels of a critic's first layer. Paper 64."""

    critic_lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of the critics' Adam. Paper 2e-4, DiGA's release 1e-4."""


class Weights(LossWeights):
    adv: float = 1.0
    """Adversarial loss of the generators. Paper 1, DiGA's release 0.5."""

    cycle: float = 10.0
    """Cycle consistency, as an L1 distance. Paper 10, for images in [-1, 1]; ours, in [0, 1], differ half as much."""

    identity: float = 5.0
    """L1 distance of an image from its translation to its own domain. Paper 5 (half of cycle)."""

    edge: float = 20.0
    """Preserved brightness changes at boundaries of the source's label map. DiGA's release 20."""

    critic: float = 1.0
    """Adversarial loss of the critics. Paper 1."""


BOTH = {"source", "target"}
SPEC = MethodSpec(
    name="cyclegan",
    Config=Config,
    Weights=Weights,
    views={"adv": BOTH, "cycle": BOTH, "identity": BOTH, "edge": {"source"}, "critic": BOTH},
    always=("adv", "cycle", "critic"),
    roles=(),
    predicts="images",
)


class CycleGAN(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        nn.Module.__init__(self)  # not Method's: there is no segmentation network
        self.knobs: Config = context.knobs
        self.generators = nn.ModuleDict()
        self.critics = nn.ModuleDict()
        for index, domain in enumerate(("target", "source")):  # into which a generator translates, and a critic judges
            self.generators[domain] = context.build(
                lambda: ImageGenerator(self.knobs.width, self.knobs.blocks), "translator", index
            )
            self.critics[domain] = context.build(
                lambda: PatchDiscriminator(3, self.knobs.critic_width, layers=3), "critic", index
            )

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        source, target = batch.source.image, batch.target.image
        to_target, to_source = self.generators["target"], self.generators["source"]
        translated, returned = to_target(source), to_source(target)
        with frozen(self.critics):
            terms = {
                "adv": domain_loss(self._judge("target", translated), TARGET, "least_squares")
                + domain_loss(self._judge("source", returned), SOURCE, "least_squares")
            }
        terms["cycle"] = F.l1_loss(to_source(translated), source) + F.l1_loss(to_target(returned), target)
        if step.active("identity"):
            terms["identity"] = F.l1_loss(to_target(target), target) + F.l1_loss(to_source(source), source)
        if step.active("edge"):
            terms["edge"] = edge_loss(source, translated, batch.source.label)
        yield terms

        translated, returned = translated.detach(), returned.detach()
        del terms  # frees the generators' graph before the critics' is built
        yield {
            "critic": self._critic_loss("target", translated, target, step)
            + self._critic_loss("source", source, returned, step)
        }

    def _judge(self, domain: str, images: Tensor) -> Tensor:
        """A critic's verdict (B, 1, h, w) on images (B, 3, H, W) in [0, 1]: near 0 for source, near 1 for target."""
        found: Tensor = self.critics[domain](2 * images - 1)
        return found

    def _critic_loss(self, domain: str, as_source: Tensor, as_target: Tensor, step: Step) -> Tensor:
        """Loss of a domain's critic, which should take `as_source` for source and `as_target` for target images."""
        logits_source, logits_target = self._judge(domain, as_source), self._judge(domain, as_target)
        step.log(f"domain_accuracy_{domain}", domain_accuracy(logits_source, logits_target, threshold=0.5))
        losses = domain_loss(logits_source, SOURCE, "least_squares") + domain_loss(
            logits_target, TARGET, "least_squares"
        )
        return losses / 2

    def optimizers(self, optim: OptimizerFactory) -> dict[str, Optimizer]:
        return {
            "generators": optim.adam(self.generators, self.knobs.generator_lr, BETAS),
            "critics": optim.adam(self.critics, self.knobs.critic_lr, BETAS),
        }

    def predictor(self) -> nn.Module:
        return self.generators["target"]
