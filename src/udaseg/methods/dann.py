"""DANN on segmentation features: a domain classifier behind a gradient reversal layer.

Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015; Ganin et al., JMLR 2016.

Loss: L_seg + L_domain, with L_domain the mean negative log-likelihood of the domain at every feature location, source
and target averaged apart. The classifier minimises it; between it and the network the gradient is multiplied by
-reversal * lambda_p, where lambda_p = 2 / (1 + exp(-gamma p)) - 1 and p is the share of the training that is done.

Differences from the paper
- The paper classifies whole images; for segmentation the classifier looks at every location of a feature map. There is
  no official segmentation code: where it is attached and how strongly it pushes is our definition.
- `reversal` scales only what reaches the network, never the classifier's own gradient.
- The classifier is trained by Adam, as AdaptSegNet's discriminators are, not by the network's SGD.
"""

from collections.abc import Generator
from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, OptimizerFactory, Step, Terms, supervised
from udaseg.nets.discriminators import PatchDiscriminator, PixelClassifier
from udaseg.ops.adversarial import SOURCE, TARGET, domain_accuracy, domain_loss, reversal_strength, reverse_gradient


class Config(Knobs):
    feature: Literal["layer3", "layer4"] = "layer4"  # which map is aligned; layer4 is the one before the classifier
    classifier: Literal["pixel", "patch"] = "pixel"  # 1x1 convolutions, or three 4x4 convolutions of stride 2
    hidden: Annotated[int, Field(ge=1)] = 1024  # channels of the pixel classifier (paper 1024)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5  # in the pixel classifier (common implementations 0.5)
    gamma: Annotated[float, Field(gt=0)] = 10.0  # steepness of lambda_p (paper 10)
    reversal: Annotated[float, Field(ge=0)] = 0.01  # factor on lambda_p (paper 1, for whole images; ours 0.001 to 0.01)
    classifier_lr: Annotated[float, Field(gt=0)] = 1e-4  # as AdaptSegNet's discriminators


SPEC = MethodSpec(
    name="dann",
    Config=Config,
    weights={"seg": 1.0, "domain": 1.0},
    views={"seg": frozenset({"source"}), "domain": frozenset({"source", "target"})},
    idle=lambda knobs, weights: {} if "domain" in weights else {"classifier.": "the domain term is off"},
)


class DANN(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs
        channels = self.net.feature_channels[self.knobs.feature]
        self.classifier: nn.Module = context.build(lambda: self._classifier(channels), "discriminator")

    def _classifier(self, channels: int) -> nn.Module:
        if self.knobs.classifier == "pixel":
            return PixelClassifier(channels, self.knobs.hidden, self.knobs.dropout)
        return PatchDiscriminator(channels, layers=3)

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        source = self.net(batch.source.image)
        terms = {"seg": supervised(source.logits, batch.source)}
        if step.active("domain"):
            target = self.net(batch.target.image)
            strength = self.knobs.reversal * reversal_strength(step.progress, self.knobs.gamma)
            logits_source = self.classifier(reverse_gradient(source.features[self.knobs.feature], strength))
            logits_target = self.classifier(reverse_gradient(target.features[self.knobs.feature], strength))
            terms["domain"] = domain_loss(logits_source, SOURCE) + domain_loss(logits_target, TARGET)
            step.log("domain_accuracy", domain_accuracy(logits_source, logits_target))
        yield terms  # one group: both terms share the source graph

    def optimizers(self, optim: OptimizerFactory) -> dict[str, Optimizer]:
        return super().optimizers(optim) | {"classifier": optim.adam(self.classifier, self.knobs.classifier_lr)}
