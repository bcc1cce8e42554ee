"""DAFormer's training: DACS with a distance that keeps the features of things near those of the initial encoder.

Hoyer, Dai & Van Gool, "DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic
Segmentation", CVPR 2022, arXiv 2111.14887. The term "masked" is that of MIC (CVPR 2023, arXiv 2212.01322), off by
default.

Loss: L_seg + L_mix + w_fd L_fd (+ L_masked). L_seg, L_mix and L_masked as in DACS, with other defaults. L_fd is the
mean distance of the encoder's features of source images to those of a frozen one (the role "initial": trained on
ImageNet), on cells of things: classes that such weights tell apart. The paper's other parts are settings: rare class
sampling of the source stream (train.source.rare), the learning rate's warm-up (optim.warmup_iterations), the network.

Differences from the paper
- Classes to paste are drawn from those of the whole batch, as released; DACS, which it builds on, draws from each
  image's (`mix_classes: image`).
- All means are over all pixels, the ignored ones too, as released (mmseg's rule).
Differences from the released code
- No thing in the batch: a distance of 0 where the release gives NaN.
- L_fd is on the stage before the classifier, layer4, whatever its stride; a cell of a map that does not divide the
  image covers its share of it.
- Logits are resized with their corners aligned, as everywhere here.
- torchvision's jitter instead of kornia's: brightness is scaled, not added to.
- Pixels of a crop beyond the target image have no pseudo-label, and do not count for the share of confident pixels.
- `ignore_top` and `ignore_bottom` are rows of the crop; the defaults are for crops as tall as the image, 512 rows.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from udaseg.data.batches.streams import Labelled
from udaseg.errors import UserError
from udaseg.methods.base import Context, MethodSpec, Step, Terms
from udaseg.methods.self_training.host import HostKnobs, Rows, SelfTraining, Share
from udaseg.nets.base import Outputs
from udaseg.nets.teacher import Frozen
from udaseg.ops.feature_distance import feature_distance, thing_cells

FEATURE = "layer4"  # the encoder's last stage
THINGS = (
    *("traffic_light", "traffic_sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("sign_symbol", "pedestrian", "bicyclist"),  # CamVid's names, which has `car` too
)


class Config(HostKnobs):
    ema: Share = 0.999  # largest share of the teacher kept at an update (DAFormer 0.999)
    mix_classes: Literal["image", "batch"] = "batch"  # whose classes half are pasted (released: batch)
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # strength, in 80 % of the batches (DAFormer 0.2)
    ignore_top: Rows = 15  # rows of the crop without pseudo-labels (DAFormer 15 of 512)
    ignore_bottom: Rows = 120  # the same at the bottom (DAFormer 120 of 512)
    source_mean: Literal["valid", "all"] = "all"  # pixels that the source loss is a mean over (mmseg's rule: all)
    # Classes whose features stay near the initial ones (DAFormer: Cityscapes'); those the study lacks are left out.
    things: Annotated[tuple[str, ...], Field(strict=False)] = THINGS  # not strict: parameters come as lists
    min_share: Annotated[float, Field(gt=0, le=1)] = 0.75  # of a cell's pixels, to be of its class (DAFormer 0.75)


SPEC = MethodSpec(
    name="daformer",
    Config=Config,
    weights={"seg": 1.0, "fd": 0.005, "mix": 1.0, "masked": 0.0},  # MIC's weight of masked is 1
    views={
        "seg": frozenset({"source"}),
        "fd": frozenset({"source"}),
        "mix": frozenset({"source", "target"}),
        "masked": frozenset({"target"}),
    },
    roles=("student", "initial"),
)


class DAFormer(SelfTraining):
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
