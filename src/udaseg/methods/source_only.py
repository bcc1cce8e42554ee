"""Source only: the lower bound. Trained on labelled source images, never shown a target image.

Loss: mean cross-entropy over the labelled source pixels. The source stream is augmented exactly as for the adaptation
methods, so that a method's gain cannot come from its augmentation.
"""

from collections.abc import Generator

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Method, MethodSpec, Step, Terms, supervised

SPEC = MethodSpec(name="source_only", views={"seg": {"source"}})


class SourceOnly(Method):
    SPEC = SPEC

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        yield {"seg": supervised(self.net(batch.source.image).logits, batch.source)}
