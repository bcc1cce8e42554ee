"""What all segmentation networks share: normalisation, named features, BatchNorm policy, initialisation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from udaseg.errors import UserError
from udaseg.nets.heads import Head

if TYPE_CHECKING:
    from udaseg.config.schema import Network

Norm = Literal["train", "affine_frozen", "eval"]


class Outputs(NamedTuple):
    logits: Tensor  # (B, C, h, w) at the network's own stride; callers resize them
    aux_logits: Tensor | None  # (B, C, h', w') of the auxiliary level, if the network has one
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
    """Normalised images (B, 3, H, W) to named features; all that makes one network different from another.

    A new network is a subclass in a file of its own and a line in `udaseg.nets.NETWORKS`.
    """

    title: ClassVar[str]  # in reports; parameters of `network` may stand in braces, such as {depth}
    pretraining_job: ClassVar[bool] = True  # what `init: pretrain` means: a job of ours, or `published_weights`
    feature_channels: ClassVar[Mapping[str, int]]
    head_feature: ClassVar[str]  # the feature that the main head takes
    aux_feature: ClassVar[str]  # the feature that the auxiliary head takes
    head_width: ClassVar[int]  # channels inside a squeeze-and-excite head
    dilations: ClassVar[tuple[int, int, int, int]]  # of the heads' branches, to suit the stride of the features

    @classmethod
    def from_spec(cls, spec: "Network") -> Self:
        """The backbone with random weights; a subclass with settings of its own takes them from `spec`."""
        return cls()

    @classmethod
    def published_weights(cls, spec: "Network") -> dict[str, Tensor]:
        """Weights that the authors or a library publish for this backbone, by the names of its parameters.

        Raises:
            UserError: there are none, or they can be neither downloaded nor read.
        """
        raise UserError(
            f"network.name: no weights are published for '{spec.name}'; use init: pretrain, scratch or file:PATH"
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} computes no features")


class SegmentationNet(nn.Module):
    """Images to logits: the predictor of every method, whose weights are a run's model.safetensors.

    Args:
        backbone: computes the features.
        head: classifier of the main level.
        aux_head: classifier of the auxiliary level, or None.
        feature_norm: whether to put a BatchNorm before the head: backbones trained without labels have features of any
            scale (ProDA's `bn_clr`, for SimCLR's weights).
        norm: BatchNorm policy. "train": statistics and affine parameters train (DACS, DAFormer); "affine_frozen": only
            statistics do (AdaptSegNet); "eval": neither, and the running statistics normalise in training, too (CBST).
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
        """Channels of each feature: the backbone's, and "embedding", the map that the main classifier sees."""
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
    """Within it, modules draw their initial weights from `seed`; afterwards the global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
