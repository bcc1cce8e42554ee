"""PiPa: two contrasts beside self-training, of pixels of the same class and of patches of the same place.

Chen, Zheng, Yang & Chua, "PiPa: Pixel- and Patch-wise Self-supervised Learning for Domain Adaptive Semantic
Segmentation", ACM Multimedia 2023, arXiv 2211.07609.

Loss: DAFormer's + alpha L_pixel + beta L_patch, whose factors are the loss weights of `pixel` and `patch`. L_pixel
contrasts embeddings of labelled source pixels: those of one class attract, all others repel each other. L_patch
contrasts two overlapping crops of one image: embeddings of the same place are to agree, and to differ from all others.
Both embeddings are projections of the map that the classifier sees, and serve training only. The terms are in
`contrast` and go with any host that is a `dacs.DACS`.

The released code does not train what the paper describes. The classifiers that tell hard pixels and confident patches
have no loss, and the patches' features are the teacher's, so that their loss never reaches the student. Both forms are
here (`pixel` and `patch`: paper or released), and the paper's is the default.
Differences from the paper
- Choices that its text leaves open: a number of pixels is drawn from each class, and a number of anchors from each
  image. As released, the patch loss is summed over both directions; its gradient goes through both crops and the
  negatives.
- Patches are of target images, as released; descriptions of the paper have mixed ones (`patch_image`).
Properties of the paper's forms
- Hard positives together with hard negatives draw all embeddings into one point as long as the features do not separate
  the classes. There the loss is the logarithm of 1 + the number of negatives and has hardly any gradient. A larger
  `hard_share` does not have this effect.
- The student sees the patches with its own BatchNorm, whose running statistics then average more target images than
  the host's (not with `patch: released`). Part of any gain is therefore that of AdaBN.
Differences from the released code
- Embeddings are of the map before the classifier; the release's pixel embeddings are of the encoder's four stages.
- The images of the patch contrast are those of the batch; the release always takes the first ones of its list.
- The two crops are augmented like mixed images; the release has a stronger jitter, and greyscale.
- Untrained classifiers keep their initial weights; in the release weight decay shrinks them.
- If there is nothing to contrast, the loss is 0.
"""

from udaseg.methods.self_training.contrast import ContrastKnobs, ContrastWeights, WithContrast, with_contrast
from udaseg.methods.self_training.daformer import SPEC as HOST
from udaseg.methods.self_training.daformer import Config as HostConfig
from udaseg.methods.self_training.daformer import DAFormer
from udaseg.methods.self_training.daformer import Weights as HostWeights


class Config(HostConfig, ContrastKnobs):
    pass


class Weights(ContrastWeights, HostWeights):
    pass


class PiPa(WithContrast, DAFormer):
    SPEC = with_contrast(HOST, "pipa", Config, Weights)
    knobs: Config
