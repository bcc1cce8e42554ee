"""PiPa's contrasts as a plug-in of DACS and methods built on it: knobs, loss weights, SPEC. The paper: see `pipa`."""

from collections.abc import Generator, Mapping, Set
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from udaseg.data.batches.streams import Batch, Labelled
from udaseg.methods.base import Context, Knobs, LossWeights, MethodSpec, OptimizerFactory, Step, Terms
from udaseg.methods.self_training.contrast_terms import PixelPatch
from udaseg.methods.self_training.dacs import DACS, Judged, Mixed, build_teacher, mixed_images
from udaseg.nets.base import Outputs
from udaseg.types import Fidelity, Positive, Share

# Not strict, because parameters come as lists.
Pair = Annotated[tuple[Positive, Positive], Field(strict=False)]
Factors = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], Field(strict=False)]
Shares = Annotated[tuple[Share, Share], Field(strict=False)]


class ContrastKnobs(Knobs):
    """Sizes in pixels are the release's, for images of 1024 x 2048. Other image sizes need other ones."""

    pixel: Fidelity = "paper"
    """Form of the pixel contrast.

    paper: against the hardest tenth of positives and negatives
    released: against all, halved by an untrained classifier
    """

    patch: Fidelity = "paper"
    """Network whose features the patch contrast compares.

    paper: the student's features of both crops
    released: the teacher's, so that the student learns nothing from them
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of both contrasts. Released 0.1."""

    hard_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the positives and of the negatives, the hardest ones, that count in the paper's forms. Paper 0.1."""

    pixels_per_class: Positive = 100
    """Pixels drawn from each class. Released 100.

    The paper's form draws them from the batch (ours), the released one from each image that has more than so many; it
    ignores no label, so that 255 is a class.
    """

    pixel_width: Positive = 1024
    """Channels within the pixel projection. Released 1024."""

    pixel_outputs: Positive = 256
    """Channels of the pixel embedding. Released 256."""

    patch_width: Positive = 256
    """Channels within the patch projection. Released 256."""

    patch_outputs: Positive = 128
    """Channels of the patch embedding. Released 128."""

    patch_image: Literal["target", "mixed"] = "target"
    """Images from which patches are cut: whole target images, or mixed ones. Paper mixed, as others describe it.

    Released target.
    """

    patch_scale: Factors = (0.8, 2.0)
    """Bounds of the random factor on the image's size before crops are cut. Released 0.8 and 2."""

    patch_size: Pair = (720, 720)
    """Height and width of the crops in pixels, multiples of patch_stride. Released 720; best in the paper 720."""

    patch_stride: Positive = 8
    """Side of a compared cell, and unit of the shift between the crops, in pixels. Released 8."""

    patch_overlap: Shares = (0.1, 1.0)
    """Bounds of the crops' intersection over union. Released 0.1 and 1."""

    patch_start: Annotated[int, Field(ge=0)] = 10000
    """Iteration from which on the patch contrast is computed. Released 10000, of 60 000."""

    patch_anchors: Positive = 256
    """Locations of an image that are contrasted, with `patch: paper`. Ours."""

    patch_negatives: Literal["all", "other_class"] = "all"
    """Negatives with `patch: paper`: all other locations, or those of another pseudo-class of the teacher's. Ours."""

    patch_confidence: Share = 0.9
    """Confidence that a positive must exceed, with `patch: released`. Released 0.9."""

    @model_validator(mode="after")
    def _crops_fit_their_cells(self) -> Self:
        if any(length % self.patch_stride for length in self.patch_size):
            raise ValueError(
                f"patch_size: multiples of patch_stride = {self.patch_stride} expected, found {list(self.patch_size)}"
            )
        for name in ("patch_scale", "patch_overlap"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: a lower and an upper bound expected, found {[low, high]}")
        return self


class ContrastWeights(LossWeights):
    pixel: float = 0.1
    """Contrast of source pixels, alpha. Released 0.1."""

    patch: float = 0.1
    """Contrast of overlapping crops, beta. Released 0.1 on DAFormer, 0.01 on HRDA."""


class WithContrast(DACS):
    """Adds the two terms to DACS, or to the class that follows it among the bases. Without them it is that method."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.contrast: PixelPatch | None = None
        if "pixel" in context.weights or "patch" in context.weights:
            self.contrast = PixelPatch(context, self.net.feature_channels["embedding"])
        knobs: Any = context.knobs
        self.needs_teacher = "patch" in context.weights and (
            knobs.patch == "released" or knobs.patch_negatives == "other_class"
        )
        if self.needs_teacher and self.teacher is None:
            self.teacher = build_teacher(self.net, self.knobs)

    def source_terms(self, source: Outputs, labelled: Labelled, step: Step) -> Terms:
        terms = super().source_terms(source, labelled, step)
        if self.contrast is None or not step.active("pixel"):
            return terms
        return terms | {"pixel": self.contrast.pixel(source, labelled, step)}

    def further_terms(
        self, batch: Batch, judged: Judged | None, mixed: Mixed | None, step: Step
    ) -> Generator[Terms, None, Any]:
        carry = yield from super().further_terms(batch, judged, mixed, step)
        if self.contrast is not None and step.active("patch"):
            yield from self._patch(self.contrast, batch, mixed, step)
        return carry

    def _patch(
        self, contrast: PixelPatch, batch: Batch, mixed: Mixed | None, step: Step
    ) -> Generator[Terms, None, None]:
        """The group of `patch`; none before the iteration from which on it is computed."""
        knobs: Any = self.knobs
        shape = (batch.target.full if knobs.patch_image == "target" else batch.target.image).shape
        contrast.require_room((shape[-2], shape[-1]))  # at once, not only when the term starts
        if step.index < knobs.patch_start:
            return
        if knobs.patch_image == "target":
            images = batch.target.full
        else:
            images = mixed_images(batch, self.knobs, step)[0] if mixed is None else mixed.image
        teacher = self.teacher if self.needs_teacher else None
        look = teacher if teacher is not None and knobs.patch == "released" else self.net
        yield {"patch": contrast.patch(look, teacher, images, step)}

    def optimizers(self, optim: OptimizerFactory) -> dict[str, torch.optim.Optimizer]:
        found = super().optimizers(optim)
        return found if self.contrast is None else found | {"contrast": optim.module(self.contrast)}


def with_contrast(host: MethodSpec, name: str, config: type[Knobs], weights: type[LossWeights]) -> MethodSpec:
    """The host's SPEC with the two terms."""

    def views(knobs: Any) -> dict[str, Set[str]]:
        patches = {"target", "target.full"} if knobs.patch_image == "target" else {"source", "target"}
        return {**host.needs(knobs), "pixel": {"source"}, "patch": patches}

    def idle(knobs: Any, weights: Mapping[str, float]) -> dict[str, str]:
        found = dict(host.idle(knobs, weights))
        if knobs.pixel == "released" and "pixel" in weights:
            found["contrast.side"] = "the release does not train the classifier that tells hard pixels"
        if knobs.patch == "released" and "patch" in weights:
            found["contrast.classifier"] = "the release does not train the classifier of the patches' pseudo-labels"
        return found

    return replace(host, name=name, Config=config, Weights=weights, views=views, idle=idle)
