"""What all segmentation networks share: normalisation, named features, BatchNorm policy, initial weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from udaseg.nets.heads import Head

Norm = Literal["train", "affine_frozen", "eval"]


class Outputs(NamedTuple):
    logits: Tensor  # (B, C, h, w) at the network's own stride; callers resize
    aux_logits: Tensor | None  # (B, C, h', w') of the auxiliary level, if there is one
    features: dict[str, Tensor]  # name -> (B, channels, h, w), see `SegmentationNet.feature_channels`


class Normalise(nn.Module):
    """RGB in [0, 1] to zero mean and unit variance, with ImageNet's constants."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Constants, not state: they stay out of checkpoints.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Backbone(nn.Module):
    """Normalised images (B, 3, H, W) to named features; says which of them the heads take."""

    feature_channels: dict[str, int]
    head_feature: str
    aux_feature: str
    head_width: int  # channels inside a squeeze-and-excite head
    dilations: tuple[int, int, int, int]  # of the heads' branches, fitting the stride of the features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} computes no features")


class SegmentationNet(nn.Module):
    """Images to logits. The predictor of every method, and what checkpoints of a model hold.

    Args:
        backbone: gives the features.
        head: classifier of the main level.
        aux_head: classifier of the auxiliary level, or None.
        feature_norm: whether a BatchNorm of its own stands before the head: backbones trained without labels have
            features of any scale (ProDA's `bn_clr`, for SimCLR's weights).
        norm: BatchNorm policy. "train": statistics and affine train (DACS, DAFormer); "affine_frozen": only statistics
            do (AdaptSegNet); "eval": neither, the running statistics normalise also while training (CBST).
    """

    def __init__(self, backbone: Backbone, head: Head, aux_head: Head | None, feature_norm: bool, norm: Norm) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        channels = backbone.feature_channels[backbone.head_feature]
        self.feature_norm = nn.BatchNorm2d(channels) if feature_norm else nn.Identity()
        self.norm = norm
        if norm != "train":
            for module in self._batch_norms():
                module.requires_grad_(False)
        self.train()

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each of the features: the backbone's, and "embedding", the map that the main classifier sees."""
        return {**self.backbone.feature_channels, "embedding": self.head.embedding_channels}

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W), RGB in [0, 1], not normalised -> `Outputs`."""
        features = self.backbone(self.normalise(images))
        aux_logits = None if self.aux_head is None else self.aux_head(features[self.backbone.aux_feature])
        embedding = self.head.embed(self.feature_norm(features[self.backbone.head_feature]))
        return Outputs(self.head.classify(embedding), aux_logits, {**features, "embedding": embedding})

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.norm == "eval":
            for module in self._batch_norms():
                module.eval()
        return self

    def _batch_norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


@contextmanager
def initialised_from(seed: int) -> Iterator[None]:
    """Within it, modules draw their initial weights from `seed`; the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
