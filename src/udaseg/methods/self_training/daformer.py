"""DAFormer's training: DACS, and a distance that keeps features of thing classes near those of the initial encoder.

Hoyer, Dai & Van Gool, "DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic
Segmentation", CVPR 2022, arXiv 2111.14887.

Loss: L_seg + L_mix + w_fd L_fd (+ L_masked). L_seg, L_mix and MIC's L_masked are those of DACS, with other defaults.
L_fd is the mean distance of the encoder's features of source images from those of a frozen encoder (the role "initial",
trained on ImageNet), over cells of thing classes, which such an encoder can tell apart. The paper's other parts are
settings: rare class sampling of the source stream (train.source.rare), the warm-up of the learning rate
(optim.warmup_iterations) and the network.

Differences from the paper
- Half of the whole batch's classes are pasted, as released; DACS takes half of each image's (`mix_classes: image`).
- All means are over all pixels, ignored ones included, as released (mmseg's rule).
Differences from the released code
- If there is no thing in the batch, the distance is 0; the release gives NaN.
- L_fd is computed on the encoder's last stage, layer4, whatever its stride. If the map's size does not divide the
  image's, a cell covers its share of the image.
- Logits are resized with aligned corners, as everywhere here.
- `ignore_top` and `ignore_bottom` are rows of the crop; the defaults are for crops as tall as the image, 512 rows.
- Those of DACS, except for the teacher's index, which is the release's.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Labelled
from udaseg.errors import UserError
from udaseg.methods.base import Context, Step, Terms
from udaseg.methods.self_training.dacs import DACS, VIEWS, Jitter, Rows
from udaseg.methods.self_training.dacs import SPEC as HOST
from udaseg.methods.self_training.dacs import Config as HostConfig
from udaseg.methods.self_training.dacs import Weights as HostWeights
from udaseg.nets.base import Outputs
from udaseg.nets.teacher import Frozen
from udaseg.ops.feature_distance import feature_distance, thing_cells
from udaseg.types import Share

FEATURE = "layer4"  # the encoder's last stage
THINGS = (
    *("traffic_light", "traffic_sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("sign_symbol", "pedestrian", "bicyclist"),  # CamVid's names, which has `car` too
)


class Config(HostConfig):
    ema: Share = 0.999
    mix_classes: Literal["image", "batch"] = "batch"
    jitter: Jitter = 0.2
    ignore_top: Rows = 15
    ignore_bottom: Rows = 120
    source_mean: Literal["valid", "all"] = "all"

    things: Annotated[tuple[str, ...], Field(strict=False)] = THINGS  # not strict: parameters come as lists
    """Classes of the term fd, of Cityscapes and CamVid; those that a study lacks are left out. Paper: Cityscapes'."""

    min_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of a cell's pixels that must be of its class, for the term fd. Released 0.75."""


class Weights(HostWeights):
    fd: float = 0.005
    """Distance of thing features from those of the initial encoder. Released 0.005."""


SPEC = replace(
    HOST,
    name="daformer",
    Config=Config,
    Weights=Weights,
    views={**VIEWS, "fd": {"source"}},
    roles=("student", "initial"),
)


class DAFormer(DACS):
    SPEC = SPEC
    knobs: Config

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.classes = len(context.classes)
        self.things = [index for index, name in enumerate(context.classes) if name in self.knobs.things]
        self.initial: Frozen | None = None
        if "fd" in context.weights:
            if not self.things:
                raise UserError(
                    f"methods.daformer.knobs.things: none of {list(self.knobs.things)} is among the classes "
                    f"{context.classes}; name some of them, or set the weight of fd to 0"
                )
            self.initial = Frozen(context.build_net("initial").backbone)

    def source_terms(self, source: Outputs, labelled: Labelled, step: Step) -> Terms:
        if self.initial is None:
            return {}
        return {"fd": self._distance(source.features[FEATURE], self.initial, labelled)}

    def _distance(self, features: Tensor, initial: Frozen, source: Labelled) -> Tensor:
        """L_fd of the student's features (B, D, h, w)."""
        reference = initial(self.net.normalise(source.image))[FEATURE]
        size = (features.shape[-2], features.shape[-1])
        cells = thing_cells(source.label, size, self.things, self.classes, self.knobs.min_share)
        return feature_distance(features, reference, cells)
