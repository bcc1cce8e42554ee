"""CycleGAN: a translator that gives source images the target's look, trained without pairs. It labels nothing.

Zhu, Park, Isola & Efros, "Unpaired Image-to-Image Translation Using Cycle-Consistent Adversarial Networks", ICCV 2017,
arXiv 1703.10593; with a term that keeps the boundaries of the source's label map, as DiGA's translator has one (Shen
et al., CVPR 2023).

Loss of the generators G (source to target) and F (back): L_adv + w_cycle L_cycle + w_identity L_identity + w_edge
L_edge. L_adv: each critic is to take a translated image for a real one of its domain (squared distance). L_cycle: L1 of
F(G(s)) to s and of G(F(t)) to t. L_identity: L1 of G(t) to t and of F(s) to s, so that what has the look already stays.
L_edge: see `ops.edges`. Critics: half the squared distances of real images to 1 and of translated ones to 0. All are
stepped together, the critics on the translations from before the generators' step.

The predictor is G: a later stage takes this one as its `translator` (DiGA).

Differences from the paper
- The critics see the translations of the step only; the paper shows them a history of 50 as well.
- A generator changes the logits of the colours it is given and starts as the identity (`nets.translator`); it ends in
  enlargements with convolutions instead of transposed ones, pads zeros, and has 3x3 convolutions at both ends.
- Three layers without normalisation in the critics, each patch 22 pixels wide (paper five, 70 pixels): colours and
  textures are what is to be carried over.
- Rates follow the run's schedule; the paper's stay for the first half and fall linearly in the second.
Differences from DiGA's release (its own translator of two encoders and two decoders)
- One generator for each direction; no perceptual term of a VGG network, which would need its weights. The release's
  self-reconstruction (weight 0.001) is for its shared encoders; L_identity takes its place.
- One critic scale of the three; adversarial weight 1 (released 0.5).
- L_edge compares how brightness changes at boundaries, in place of the colours there, so that these may change.
"""

from collections.abc import Generator
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, OptimizerFactory, Step, Terms
from udaseg.nets.discriminators import PatchDiscriminator
from udaseg.nets.translator import Generator as ImageGenerator
from udaseg.ops.adversarial import SOURCE, TARGET, domain_accuracy, domain_loss, frozen
from udaseg.ops.translation import edge_loss

BETAS = (0.5, 0.999)  # of Adam (paper's release, and DiGA's)


class Config(Knobs):
    width: Annotated[int, Field(ge=1)] = 64  # channels of a generator at full size (paper 64)
    blocks: Annotated[int, Field(ge=0)] = 6  # its residual blocks (paper 6 for crops of 128 pixels, 9 from 256 on)
    generator_lr: Annotated[float, Field(gt=0)] = 2e-4  # Adam (paper 2e-4, DiGA's release 1e-4)
    critic_width: Annotated[int, Field(ge=1)] = 64  # channels of a critic's first layer (paper 64)
    critic_lr: Annotated[float, Field(gt=0)] = 2e-4  # Adam (paper 2e-4, DiGA's release 1e-4)


BOTH = frozenset({"source", "target"})
SPEC = MethodSpec(
    name="cyclegan",
    Config=Config,
    # Paper's, of images in [-1, 1], which ours are half as far apart; edge as in DiGA's release.
    weights={"adv": 1.0, "cycle": 10.0, "identity": 5.0, "edge": 20.0, "critic": 1.0},
    views={"adv": BOTH, "cycle": BOTH, "identity": BOTH, "edge": frozenset({"source"}), "critic": BOTH},
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
        for index, domain in enumerate(("target", "source")):  # that a generator leads to, and a critic knows
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
        """What a domain's critic says of images (B, 3, H, W) in [0, 1]: near 0 source, near 1 target; (B, 1, h, w)."""
        found: Tensor = self.critics[domain](2 * images - 1)
        return found

    def _critic_loss(self, domain: str, as_source: Tensor, as_target: Tensor, step: Step) -> Tensor:
        """Loss of a domain's critic, to which the one images are to look like the source's, the others the target's."""
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
