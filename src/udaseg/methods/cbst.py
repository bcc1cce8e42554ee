"""CBST and CRST: one round of class-balanced self-training, which fine-tunes on pseudo-labels of the previous round.

Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training", ECCV 2018,
arXiv 1810.07911, and "Confidence Regularized Self-Training", ICCV 2019, arXiv 1908.09822 (CRST).

Loss: cross-entropy with the source's labels and the target's pseudo-labels, as one mean over all labelled pixels of the
batch; `seg` and `pseudo` are the parts that source and target contribute. CRST regularises it in one of two ways: by
soft labels (LRENT, `soft`), or by `kld` (MRKLD), which keeps predictions at pseudo-labelled pixels away from certainty.

The network starts from the previous round, whose label job makes the pseudo-labels. The number of pseudo-labels, the
source subset, the crops at rare classes and the growing shares are settings of `labels`, `train` and `rounds`. The
papers fine-tune with `network.norm: eval`.

Differences from the paper
- A pixel whose confidence equals its class's threshold is selected, as released.
- `kld` is a mean over the pseudo-labelled pixels only, as released; the cross-entropy is pooled over both domains.
- No spatial priors (CBST-SP).
Differences from the released code
- A batch has fixed shares of both domains; the release shuffles the chosen images of both domains together.
- All target images take part; the release lists 505 of Cityscapes' 2975.
- The loss weight of `kld` is applied once; the release applies it twice (`kld_weight: released`).
- Soft labels are at a quarter of the resolution; each cell counts as the pixels that it covers.
- If nothing is labelled in a batch, the loss is 0; the release gives NaN.
"""

from collections.abc import Generator, Mapping, Set

from udaseg.data.batches.streams import Batch
from udaseg.methods.base import Context, Knobs, Method, MethodSpec, Step, Supervised, Terms, supervised
from udaseg.ops.losses import cross_entropy, has_label, pooled, soft_cross_entropy
from udaseg.ops.maps import resize
from udaseg.ops.regularisers import kld_regulariser
from udaseg.types import IGNORE, Fidelity


class Config(Knobs):
    soft: bool = False
    """Learn from soft labels (CRST's LRENT, label rule entropy) instead of hard ones (rule class_balanced)."""

    kld_weight: Fidelity = "paper"
    """How often the loss weight of MRKLD is applied.

    paper: the weight of MRKLD is applied once
    released: twice, so that 0.1 acts as 0.01
    """


class Weights(Supervised):
    pseudo: float = 1.0
    """Cross-entropy of pseudo-labelled target pixels, pooled with that of the source. Papers 1."""

    kld: float = 0.0
    """CRST's MRKLD, the divergence of predictions from uniform ones. CRST's release 0.1."""


def _views(knobs: Config) -> Mapping[str, Set[str]]:
    target = {"target", "target.soft" if knobs.soft else "target.pseudo"}
    return {"seg": {"source"}, "pseudo": target, "kld": target}


SPEC = MethodSpec(
    name="cbst",
    Config=Config,
    Weights=Weights,
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
