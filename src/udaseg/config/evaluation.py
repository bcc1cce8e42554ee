"""Parameters of what trained networks are used for: predictions, scores and pseudo-labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from udaseg.types import Positive, Scored, Share, Size
from udaseg.validation import Model


class Sliding(Model):
    """Prediction in overlapping windows, whose logits are averaged."""

    size: Size
    """Height and width of the window, in pixels."""
    stride: Size
    """Vertical and horizontal step, in pixels; at most the size."""

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> "Sliding":
        if self.stride[0] > self.size[0] or self.stride[1] > self.size[1]:
            raise ValueError(
                f"stride: {list(self.stride)} is larger than the window {list(self.size)}; allowed is at most that"
            )
        return self


class Protocol(Model):
    """How a network predicts. Reports show it beside every score."""

    window: Sliding | None
    """Sliding windows; null: the whole image at once."""
    flip: bool
    """Average the probabilities with those of the mirrored image."""
    scales: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Factors on the image's size, one prediction each."""
    fusion: Literal["mean", "max"]
    """How several predictions become one. mean: of the probabilities. max: of the logits (DiGA)."""
    aggregate: Annotated[float, Field(gt=0, le=1)] | None
    """PLCA's test-time aggregation: the share of the spatial aggregate in features and predictions; null: none
    (its published figures 0.5). Metrics carry it in their names."""


class Evaluate(Model):
    """Which split is scored, and how."""

    monitor: Scored | None
    """Split that is scored during training; it steers nothing. null: none, as for a target without labels."""
    report: Scored | None
    """Split that the tables show. null: nothing is scored, as for a target without labels."""
    protocol: Protocol
    """How the images are predicted."""
    pictures: Annotated[int, Field(ge=0)]
    """Predictions kept for the report's qualitative grid."""


class Labels(Model):
    """How an earlier stage's network labels the target's training images for a later stage: one pass over them."""

    rule: Literal["threshold", "class_balanced", "entropy", "soft", "argmax"]
    """threshold: the most probable class where its probability exceeds `threshold` (ProDA's distillation).
    class_balanced: the most confident `portion` of each class's pixels (CBST).
    entropy: soft labels of that portion, sharpened (CRST's LRENT).
    soft: all probabilities, and prototypes (ProDA).
    argmax: the most probable class of every pixel, and prototypes (DiGA)."""
    protocol: Protocol
    """How the images are predicted."""
    threshold: Share
    """Probability that a label must exceed (ProDA 0.95)."""
    portion: Share
    """Share of each class's pixels that is labelled (CBST 0.2 in the first round)."""
    every: Positive
    """One in so many of a class's pixels in an image counts towards the class's threshold (CRST 4)."""
    mine_below: Share
    """Share of the predicted pixels below which a class is mined for, see `train.target.mine` (CRST 0.001)."""
    sharpness: Annotated[float, Field(gt=0)]
    """The weight alpha of LRENT's entropy (CRST 0.25)."""
    min_pixels: Positive
    """Pixels of a class in an image from which on they count towards its prototype (ProDA and CPSL 10, DiGA 5)."""
    prototypes: Literal["target", "source"]
    """Images whose features the prototypes are means of. target: by predicted class (ProDA, CPSL; DiGA as released).
    source: where the prediction is right (DiGA's paper, whose images are augmented and mixed; these are plain)."""

    @model_validator(mode="after")
    def _nothing_is_aggregated(self) -> "Labels":
        if self.protocol.aggregate is not None:
            raise ValueError("protocol.aggregate: is for scores only; set it to null")
        return self
