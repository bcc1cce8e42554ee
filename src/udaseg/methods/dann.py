"""DANN on segmentation features: a domain classifier behind a gradient reversal layer.

Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015; Ganin et al., JMLR 2016.

Loss: L_seg + L_domain. L_domain is the mean negative log-likelihood of the domain over all feature locations; source
and target are averaged separately. The classifier minimises it. Between classifier and network the gradient is
multiplied by -reversal * lambda_p, where lambda_p = 2 / (1 + exp(-gamma p)) - 1 and p is the finished share of the
training.

Differences from the paper
- The paper classifies whole images. For segmentation the classifier looks at every location of a feature map. There is
  no official segmentation code, so the place of the classifier and the strength of its gradient are our definition.
- `reversal` scales only the gradient that reaches the network, never the classifier's own.
- The classifier is trained by Adam, like AdaptSegNet's discriminators, not by the network's SGD.
"""

from collections.abc import Generator
from typing import Annotated, Literal

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
from udaseg.nets.discriminators import PatchDiscriminator, PixelClassifier
from udaseg.ops.adversarial import SOURCE, TARGET, domain_accuracy, domain_loss, reversal_strength, reverse_gradient
from udaseg.types import Positive


class Config(Knobs):
    feature: Literal["layer3", "layer4"] = "layer4"
    """Feature map that is aligned: layer4 is the last one before the segmentation head. Our definition."""

    classifier: Literal["pixel", "patch"] = "pixel"
    """Domain classifier: 1x1 convolutions (pixel), or three 4x4 convolutions of stride 2 (patch). Our definition."""

    hidden: Positive = 1024
    """Channels of the hidden layers of the pixel classifier. Paper 1024."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout probability in the pixel classifier. Common implementations 0.5."""

    gamma: Annotated[float, Field(gt=0)] = 10.0
    """Steepness of the schedule lambda_p. Paper 10."""

    reversal: Annotated[float, Field(ge=0)] = 0.01
    """Factor on lambda_p for the gradient that reaches the network. Paper 1, for whole images; ours 0.001 to 0.01."""

    classifier_lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the classifier's Adam, before the run's schedule. Ours, as for AdaptSegNet's discriminators."""


class Weights(Supervised):
    domain: float = 1.0
    """Domain classification, which the network is trained against through the reversed gradient. Paper 1."""


SPEC = MethodSpec(
    name="dann",
    Config=Config,
    Weights=Weights,
    views={"seg": {"source"}, "domain": {"source", "target"}},
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
