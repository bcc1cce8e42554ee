"""Oracle: the upper bound. The labelled stream carries target images with their labels; no source image is seen.

Loss: mean cross-entropy over the labelled target pixels, with the network, schedule and augmentation of all others.
"""

from collections.abc import Generator

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Method, MethodSpec, Step, Terms, supervised

SPEC = MethodSpec(name="oracle", weights={"seg": 1.0}, views={"seg": frozenset({"source"})}, labelled="target")


class Oracle(Method):
    SPEC = SPEC

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}
