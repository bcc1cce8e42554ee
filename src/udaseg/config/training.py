"""Parameters of a training: the network, the optimizer, the two streams of images and the engine."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from udaseg.types import Fidelity, Name, Positive, Share, Size
from udaseg.validation import Model


class Network(Model):
    """A segmentation network."""

    name: Name
    """A network of `udaseg.nets.NETWORKS`."""
    depth: Literal[50, 101]
    """Layers of the ResNet under deeplabv2; the small network ignores it."""
    head: Literal["aspp", "squeeze_excite"]
    """aspp: DeepLabv2's classifier. squeeze_excite: ProDA's, CPSL's and DiGA's, with an embedding before the logits."""
    aspp: Fidelity
    """Branches of an aspp head. AdaptSegNet's code returns too early and leaves out two of them.

    paper: four dilated branches in the head
    released: two: a return stands inside the loop
    """
    feature_norm: bool
    """Put a BatchNorm before the head, for a backbone trained without labels (ProDA's `bn_clr`)."""
    norm: Literal["train", "affine_frozen", "eval"]
    """What of BatchNorm trains. train: statistics and affine parameters. affine_frozen: statistics only (AdaptSegNet).
    eval: nothing (CBST)."""


class Optim(Model):
    """The optimizer of the segmentation network and its schedule."""

    name: Literal["sgd", "adamw"]
    """The papers use sgd."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate of the backbone."""
    head_lr_factor: Annotated[float, Field(gt=0)]
    """Learning rate of the heads, as a multiple of `lr` (papers, with sgd: 10)."""
    momentum: Share
    """Momentum of sgd."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Weight decay."""
    schedule: Literal["poly", "constant"]
    """Learning rate over the iterations: falling as (1 - t) ** power, or constant."""
    power: Annotated[float, Field(gt=0)]
    """Exponent of the poly schedule (DeepLab 0.9)."""
    schedule_iterations: Positive | None
    """Iterations after which the poly schedule would reach 0; null: those of the run (AdaptSegNet 250 000 for a run of
    150 000)."""
    warmup_iterations: Annotated[int, Field(ge=0)]
    """Iterations in which the learning rate rises linearly at the start (DAFormer 1500)."""
    backbone_lr_multiplicity: Literal[1, 3]
    """3: each backbone weight stands three times in its parameter group, as in AdaptSegNet's code; sgd only."""
    clip_gradient: Annotated[float, Field(gt=0)] | None
    """Largest norm of the gradient; null: it is not clipped."""


class View(Model):
    """How the images of one stream become training inputs."""

    batch: Positive
    """Images a batch."""
    crop: Size
    """Height and width of the random crop, in pixels of the resized image."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    """Bounds of the random resize factor, which is uniform."""
    flip: Share
    """Chance of a horizontal flip."""
    jitter: Share
    """Strength of the jitter of brightness, contrast and saturation; hue gets a quarter of it."""
    blur: Share
    """Chance of a Gaussian blur."""


class RareClass(Model):
    """Rare class sampling (DAFormer): draw a class, the rare ones more often, then an image that shows it."""

    temperature: Annotated[float, Field(gt=0)]
    """Temperature of the softmax over classes; the larger, the more alike their chances (DAFormer 0.01)."""
    min_pixels: Positive
    """Pixels of the class above which an image can be drawn for it (DAFormer 3000, at 1280 x 720)."""
    crop_share: Annotated[float, Field(ge=0)]
    """Share of `min_pixels` that a crop must exceed, or else it is drawn again (DAFormer 0.5)."""


class LabelledTarget(Model):
    """Semi-supervised training: target images with labels, in batches of their own between those of the source.

    Alonso et al., ICCV 2021. Such a run is no unsupervised adaptation, and reports keep it apart.
    """

    images: Positive
    """Target training images that have labels. The seed chooses them; the others are the unlabelled ones."""
    finish: Annotated[int, Field(ge=0)]
    """Batches at the end of the run that hold target images only (released: 100 of 150 000)."""
    order: Fidelity
    """Batches of labelled target images before the last `finish` ones; the other batches are of the source.

    paper: every other batch is of the labelled target
    released: all are, but the odd ones among the last few
    """


class SourceView(View):
    """The labelled stream."""

    portion: Annotated[float, Field(gt=0, le=1)]
    """Share of the source images that is used. A larger one contains a smaller one (CBST)."""
    max_class_share: Annotated[float, Field(gt=0, le=1)]
    """Share of a crop that one class may fill, or else it is drawn again; 1: any (DAFormer 0.75)."""
    rare: RareClass | None
    """Rare class sampling; null: every image is drawn equally often."""
    labelled_target: LabelledTarget | None
    """Target images with labels in this stream; null: there are none, the unsupervised setting."""


class TargetView(View):
    """The unlabelled stream."""

    mine: Share
    """Chance that a crop is centred at a pixel of a class that is rare among the pseudo-labels (CBST 0.8)."""


class Exactness(Model):
    """What decides the bytes of a result besides its inputs, in training and in all later uses of its network."""

    threads: Positive
    """Threads of PyTorch; another number gives other bytes."""
    determinism: Literal["strict", "warn", "fast"]
    """What happens at an operator that is not deterministic: it is refused, reported, or allowed."""
    instructions: Literal["native", "portable"]
    """CPU instructions. native: all that this CPU has, so that another generation gives other bytes.
    portable: those that every x86 CPU since 2017 has."""


class Train(Exactness):
    """The training loop."""

    iterations: Positive
    """Optimizer steps."""
    source: SourceView
    """The labelled stream."""
    target: TargetView
    """The unlabelled stream."""
    accumulate: Positive
    """Batches a step; the effective batch is `batch` times this."""
    precision: Literal["fp32", "bf16"]
    """bf16: autocast of the forward passes."""
    workers: Annotated[int, Field(ge=0)]
    """Processes that load images; does not change the result and is not part of a run's address."""
    log_every: Positive
    """Iterations over which logged losses are averaged."""
    monitor_every: Positive
    """Iterations between two scores on the split `evaluate.monitor`; a multiple of `log_every`."""
    checkpoint_every: Positive
    """Iterations between two checkpoints; a multiple of `log_every`."""

    @model_validator(mode="after")
    def _logging_windows_close(self) -> "Train":
        for key in ("monitor_every", "checkpoint_every"):
            if getattr(self, key) % self.log_every:
                raise ValueError(f"{key}: {getattr(self, key)} is not a multiple of log_every = {self.log_every}")
        return self


class Pretrain(Model):
    """Supervised segmentation of procedural objects; its backbone plays the part of ImageNet weights."""

    dataset: Name
    """Name of the data set."""
    size: Size
    """Size to which its images are resized, height and width in pixels."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of this training, shared by all runs."""
    optim: dict[str, Any]
    """What differs from the top level's `optim`."""
    train: dict[str, Any]
    """What differs from the top level's `train`."""
