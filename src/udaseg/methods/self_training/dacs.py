"""DACS: self-training on target images into which half of the source classes are pasted.

Tranheden, Olsson, Pinto & Svensson, "DACS: Domain Adaptation via Cross-domain Mixed Sampling", WACV 2021, arXiv
2007.08702. The term "masked" is that of MIC: Hoyer, Dai, Wang & Van Gool, "MIC: Masked Image Consistency for
Context-Enhanced Domain Adaptation", CVPR 2023, arXiv 2212.01322; it is off by default.

Loss: L_seg + L_mix (+ L_masked). L_seg is the cross-entropy on source images. L_mix is that on mixed images:
pasted pixels have their labels and weight 1, the others the labels of an exponential moving average of the network, all
with the same weight, the share of confident pixels in the batch. L_masked asks for the same pseudo-labels where most of
a target image is covered. The student is evaluated.

Written after the released code, which decides where the paper's text leaves a choice.
Differences from the released code
- The teacher's index is that of the next step (its first update keeps half, the release's nothing), as in DAFormer, so
  that the two can be compared.
- torchvision's jitter instead of kornia's: brightness is scaled, not added to.
- Pixels of a crop beyond the target image have no pseudo-label, and do not count for the share of confident pixels.
- Nothing labelled in a batch: a loss of 0.
"""

from udaseg.methods.base import MethodSpec
from udaseg.methods.self_training.host import HostKnobs, SelfTraining

SPEC = MethodSpec(
    name="dacs",
    Config=HostKnobs,
    weights={"seg": 1.0, "mix": 1.0, "masked": 0.0},  # MIC's weight of masked is 1
    views={"seg": frozenset({"source"}), "mix": frozenset({"source", "target"}), "masked": frozenset({"target"})},
)


class DACS(SelfTraining):
    SPEC = SPEC
