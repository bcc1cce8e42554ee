"""AdaBN: source only, but target images also pass through the network, so that its normalisation sees both domains.

Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", arXiv 1603.04779, 2016.
Loss: mean cross-entropy over the labelled source pixels. Target images have no loss.

Differences from the paper
- The paper replaces the statistics by the target's after training. Here the running statistics average both domains
  during training, as they do in every method that forwards target images. This bound measures how much of such a
  method's gain comes from that alone.
"""

from collections.abc import Generator

import torch

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Method, MethodSpec, Step, Terms, supervised

SPEC = MethodSpec(name="adabn", views={"seg": {"source", "target"}})


class AdaBN(Method):
    SPEC = SPEC

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}
        with torch.no_grad():
            self.net(batch.target.image)  # moves the running statistics and nothing else
