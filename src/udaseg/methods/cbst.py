"""CBST and CRST: one round of class-balanced self-training, that is fine-tuning on pseudo-labels of the round before.

Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training", ECCV 2018,
arXiv 1810.07911, and "Confidence Regularized Self-Training", ICCV 2019, arXiv 1908.09822 (CRST).

Loss: cross-entropy with the source's labels and the target's pseudo-labels, the mean over all labelled pixels of the
batch; seg and pseudo are what source and target add to it. CRST regularises it: by soft labels (LRENT, `soft`), or by
kld (MRKLD), which holds the predictions at pseudo-labelled pixels off certainty.

The network starts from the round before, whose label job makes the pseudo-labels. How many of them, the source subset,
the crops at rare classes and the growing shares are settings of `labels`, `train` and `rounds`; the papers fine-tune
with `network.norm: eval`.

Differences from the paper
- A pixel whose confidence equals its class's threshold is selected, as released.
- kld is a mean over the pseudo-labelled pixels alone, as released; only the cross-entropy is pooled.
- No spatial priors (CBST-SP).
Differences from the released code
- A batch has fixed shares of both domains; the release draws from the chosen images of both, shuffled together.
- All target images take part; the release lists 505 of Cityscapes' 2975.
- kld's weight counts once; the release multiplies by it twice (`kld_weight: released`).
- Soft labels are at a quarter of the resolution; a cell of them counts as the pixels that it covers.
- Nothing labelled in a batch: a loss of 0 where the release gives NaN.
"""

from collections.abc import Generator, Mapping
from typing import Literal

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Terms, supervised
from udaseg.ops.losses import cross_entropy, has_label, pooled, soft_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.regularisers import kld_regulariser
from udaseg.types import IGNORE


class Config(Knobs):
    soft: bool = False  # LRENT: soft labels (rule entropy) in the place of hard ones (rule class_balanced)
    kld_weight: Literal["paper", "released"] = "paper"  # released: the weight of kld is applied twice, 0.1 is 0.01


def _views(knobs: Config) -> Mapping[str, frozenset[str]]:
    target = frozenset({"target", "target.soft" if knobs.soft else "target.pseudo"})
    return {"seg": frozenset({"source"}), "pseudo": target, "kld": target}


SPEC = MethodSpec(
    name="cbst",
    Config=Config,
    weights={"seg": 1.0, "pseudo": 1.0, "kld": 0.0},  # CRST's MRKLD: kld 0.1
    views=_views,
    requires={"kld": ("pseudo",)},
)


class CBST(Method):
    SPEC = SPEC

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.knobs: Config = context.knobs

    def losses(self, batch: Batch, step: Step) -> Generator[Terms, None, None]:
        seg = supervised(self.net(batch.source.image).logits, batch.source)
        if not step.active("pseudo"):
            yield {"seg": seg}
            return

        target = batch.target
        labels = target.soft if self.knobs.soft else target.pseudo
        size = labels.shape[-2:]
        logits = resize(self.net(target.image).logits, size)
        selected = has_label(labels) if self.knobs.soft else labels != IGNORE
        loss = soft_cross_entropy(logits, labels) if self.knobs.soft else cross_entropy(logits, labels)
        covered = target.image.shape[-2:].numel() / size.numel()  # pixels of the crop that a label stands for
        pixels = [(batch.source.label != IGNORE).sum(), selected.sum() * covered]
        terms = dict(zip(("seg", "pseudo"), pooled([seg, loss], pixels), strict=True))
        if step.active("kld"):
            # CRST's release multiplies the term by its weight inside, and then by its weight.
            strength = 1.0 if self.knobs.kld_weight == "paper" else step.weights["kld"]
            terms["kld"] = kld_regulariser(logits, selected, logits.new_full(logits.shape[:1], strength))
        step.log("selected", selected.float().mean())
        yield terms
