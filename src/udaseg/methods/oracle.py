"""Oracle: the upper bound. The labelled stream carries target images with their labels, and no source image is used.

Loss: mean cross-entropy over the labelled target pixels. Network, schedule and augmentation are those of all methods.
"""

from collections.abc import Generator

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Method, MethodSpec, Step, Terms, supervised

SPEC = MethodSpec(name="oracle", views={"seg": {"source"}}, labelled="target")


class Oracle(Method):
    SPEC = SPEC

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}
