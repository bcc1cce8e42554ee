"""The model of all parameters: every number of every experiment, typed and strict.

Defaults of a method's knobs live in its SPEC (`udaseg.methods`), all others here; params.yaml lists them all and a test
holds the two equal. `udaseg.study.resolve` reads the files.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from udaseg.types import Fidelity, Positive, Scored, Share, Size, Split
from udaseg.validation import Model, require_known

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,39}$"  # of what becomes part of a path
Name = Annotated[str, StringConstraints(pattern=NAME)]
PathText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./${}:~,+@=-]{1,400}$")]
UserPath = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,400}$")]  # no part of it is in a command
PointName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:()+-]{1,80}$")]  # of a sweep
Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


# ---------------------------------------------------------------------------------------------------------- data sets


class ToytownData(Model):
    """The embedded pair of procedural street-scene domains."""

    kind: Literal["toytown"]
    domain: Literal["source", "target"]
    world: int  # seed of the generated world; apart from the run's seed
    size: Size  # native height and width
    counts: dict[Split, Positive]

    def splits(self) -> list[str]:
        return list(self.counts)

    def has_labels(self) -> bool:
        return True


class ObjectsData(Model):
    """Procedural objects in many styles, on which the small network is pretrained."""

    kind: Literal["objects"]
    world: int
    size: Size
    counts: dict[Split, Positive]

    def splits(self) -> list[str]:
        return list(self.counts)

    def has_labels(self) -> bool:
        return True


class FolderData(Model):
    """A user's own images and label maps in two folders."""

    kind: Literal["folder"]
    version: int = 1  # raise it when the files under `root` have changed, so that they are prepared again
    root: UserPath  # `${NAME:-default}` is taken from the environment
    images: UserPath = "{split}/images"
    labels: UserPath | None = "{split}/labels"  # null: there are none; such a target is trained on, but not scored
    splits_present: list[Split] = Field(default=["train", "val", "test"])
    lists: dict[Split, UserPath] | None = None  # a text file of stems for each split, relative to root
    encoding: Literal["id", "colour"] = "id"
    class_map: dict[str, str]  # raw id ("7") or colour ("#804080") -> class name or "ignore"

    @model_validator(mode="after")
    def _root_is_a_folder(self) -> "FolderData":
        refuse_address("root", self.root)
        return self

    def splits(self) -> list[str]:
        return list(self.lists) if self.lists is not None else list(self.splits_present)

    def has_labels(self) -> bool:
        return self.labels is not None


class CamvidData(Model):
    """The public CamVid set, 11 classes, in SegNet's splits."""

    kind: Literal["camvid"]
    version: int = 1

    def splits(self) -> list[str]:
        return ["train", "val", "test"]

    def has_labels(self) -> bool:
        return True


DatasetSpec = Annotated[ToytownData | ObjectsData | FolderData | CamvidData, Field(discriminator="kind")]


class DomainUse(Model):
    """Which data set plays a domain, and the size to which its training inputs are resized once."""

    dataset: Name
    size: Size


class Task(Model):
    source: DomainUse
    target: DomainUse
    classes: Annotated[list[Name], Field(min_length=2, max_length=255)]
    class_sets: Annotated[dict[Name, list[Name]], Field(min_length=1)]  # the first one is the headline

    @model_validator(mode="after")
    def _classes_are_known(self) -> "Task":
        refuse_twice("classes", self.classes)
        for name, members in self.class_sets.items():
            if not members:
                raise ValueError(f"class_sets.{name}: is empty; name some of the classes")
            for member in members:
                require_known(f"class_sets.{name}", member, self.classes)
        return self


# ------------------------------------------------------------------------------------------- networks and optimisation


class Network(Model):
    name: Name  # a key of udaseg.nets.NETWORKS
    depth: Literal[50, 101]  # of the ResNet under deeplabv2; other networks have one depth
    head: Literal["aspp", "squeeze_excite"]  # DeepLabv2's classifier | ProDA's, with an embedding before the logits
    aspp: Fidelity  # of aspp heads. paper: four dilated branches; released: two, AdaptSegNet's misplaced return
    feature_norm: bool  # a BatchNorm before the head, for a backbone trained without labels (ProDA's bn_clr)
    norm: Literal["train", "affine_frozen", "eval"]  # BatchNorm: all trains | statistics only | nothing


class Optim(Model):
    name: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]  # of the backbone
    head_lr_factor: Annotated[float, Field(gt=0)]  # papers: 10
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["poly", "constant"]
    power: Annotated[float, Field(gt=0)]
    schedule_iterations: Positive | None  # length of the poly schedule where it is longer than the run (paper: 250 000)
    warmup_iterations: Annotated[int, Field(ge=0)]
    backbone_lr_multiplicity: Literal[1, 3]  # 3: as released, each backbone weight stood three times in its SGD group
    clip_gradient: Annotated[float, Field(gt=0)] | None  # largest gradient norm


class View(Model):
    """How the images of one stream become training inputs."""

    batch: Positive
    crop: Size
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # random resize factor, uniform
    flip: Share  # chance of a horizontal flip
    jitter: Share  # strength of brightness, contrast, saturation and (a quarter of it) hue jitter
    blur: Share  # chance of a Gaussian blur


class RareClass(Model):
    """Rare class sampling (DAFormer): draw a class, the rare ones more often, then an image that shows it."""

    temperature: Annotated[float, Field(gt=0)]  # paper 0.01; a large one draws all classes alike
    min_pixels: Positive  # of the class that an image must exceed to be drawn for it (paper 3000, at 1280 x 720)
    crop_share: Annotated[
        float, Field(ge=0)
    ]  # of min_pixels that a crop must exceed, else it is drawn again (paper 0.5)


class LabelledTarget(Model):
    """Semi-supervised: some target images come with their labels, in batches of their own between those of the source.

    Alonso et al., ICCV 2021. A run with this is no unsupervised adaptation, and no report shows it among such.
    """

    images: Positive  # of the target's training images; the seed chooses them, the others are the unlabelled ones
    finish: Annotated[int, Field(ge=0)]  # batches at the end that are all of target images (released 100 of 150 000)
    order: Fidelity  # paper: every other batch, target first; released: all, but the odd ones of the last `finish`


class SourceView(View):
    portion: Annotated[float, Field(gt=0, le=1)]  # of the images that is used; a larger one holds the smaller (CBST)
    max_class_share: Annotated[float, Field(gt=0, le=1)]  # of a crop that one class may fill (DAFormer 0.75; 1: any)
    rare: RareClass | None  # null: every image as often as any other
    labelled_target: LabelledTarget | None  # null: no target image has labels


class TargetView(View):
    mine: Share  # chance of a crop centred at a pixel of a class that is rare among the pseudo-labels (CBST 0.8)


class Exactness(Model):
    """What decides the bytes of a result beside its inputs: of a training, and of all that its network does later."""

    threads: Positive  # of PyTorch; another count gives other bytes
    determinism: Literal[
        "strict", "warn", "fast"
    ]  # of an operator that is not deterministic: refused | named | allowed
    # The CPU's own, so that another generation gives other bytes, or those that every x86 CPU since 2017 has.
    instructions: Literal["native", "portable"]


class Train(Exactness):
    iterations: Positive
    source: SourceView
    target: TargetView
    accumulate: Positive  # batches a step; the effective batch is batch * accumulate
    precision: Literal["fp32", "bf16"]
    workers: Annotated[int, Field(ge=0)]  # loader processes; not part of the result
    log_every: Positive
    monitor_every: Positive
    checkpoint_every: Positive

    @model_validator(mode="after")
    def _logging_windows_close(self) -> "Train":
        for key in ("monitor_every", "checkpoint_every"):
            if getattr(self, key) % self.log_every:
                raise ValueError(f"{key}: {getattr(self, key)} is not a multiple of log_every = {self.log_every}")
        return self


class Sliding(Model):
    size: Size
    stride: Size

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> "Sliding":
        if self.stride[0] > self.size[0] or self.stride[1] > self.size[1]:
            raise ValueError(
                f"stride: {list(self.stride)} is larger than the window {list(self.size)}; allowed is at most that"
            )
        return self


class Protocol(Model):
    """How a score comes about; it stands beside every number."""

    window: Sliding | None  # null: the whole image at once
    flip: bool  # average the probabilities with those of the mirrored image
    scales: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    fusion: Literal["mean", "max"]  # of several scales or a flip: the mean of probabilities | the highest logits (DiGA)
    # PLCA's test-time aggregation: the share of the aggregate over the image in a feature or prediction (its published
    # figures 0.5). null: none. Metrics say it in their names.
    aggregate: Annotated[float, Field(gt=0, le=1)] | None


class Evaluate(Model):
    monitor: Scored | None  # looked at during training, steers nothing
    report: Scored | None  # what the tables show; null: nothing is scored, as for a target without labels
    protocol: Protocol
    pictures: Annotated[int, Field(ge=0)]  # predictions kept for the report's qualitative grid


class Labels(Model):
    """How a stage's pseudo-labels come out of an earlier stage: one pass over the target's training images."""

    rule: Literal["threshold", "class_balanced", "entropy", "soft", "argmax"]
    # threshold: the class where its probability exceeds `threshold` (ProDA's distillation)
    # class_balanced: the `portion` of each class's pixels that is the most confident (CBST)
    # entropy: soft labels of that portion, sharpened (CRST's LRENT); soft: all probabilities, and prototypes (ProDA)
    # argmax: the most probable class of every pixel, and prototypes (DiGA)
    protocol: Protocol  # of the predictions
    threshold: Share  # ProDA 0.95
    portion: Share
    every: Positive  # one in so many of an image's pixels of a class counts for the threshold (CRST 4)
    mine_below: Share  # a class with less than this share of the predicted pixels is mined for (CRST 0.001)
    sharpness: Annotated[float, Field(gt=0)]  # LRENT's weight alpha (CRST 0.25)
    min_pixels: Positive  # of a class in an image for them to count for its prototype (ProDA and CPSL 10, DiGA 5)
    # Images whose features prototypes are means of: the target's by predicted class (ProDA, CPSL; DiGA as released), or
    # the source's where the prediction is right (DiGA's paper, whose images are augmented and mixed; these are plain).
    prototypes: Literal["target", "source"]

    @model_validator(mode="after")
    def _nothing_is_aggregated(self) -> "Labels":
        if self.protocol.aggregate is not None:
            raise ValueError("protocol.aggregate: is for scores only; set it to null")
        return self


class Growing(Model):
    start: Share
    step: Share
    most: Share


class Rounds(Model):
    """A stage that is run several times, each time from the round before and on pseudo-labels of that one (CBST)."""

    count: Positive
    target: Growing  # `labels.portion` of each round
    source: Growing  # `train.source.portion` of each round
    growth: Fidelity  # paper: up to `most`; released (CBST): a step is added while it is less than `most`
    lr_factor: Annotated[float, Field(gt=0)]  # on the rate, from round to round (CBST's release 1/sqrt(2), CRST's 1)


class Pretrain(Model):
    """Supervised segmentation of procedural objects; its backbone plays the part of ImageNet weights."""

    dataset: Name
    size: Size
    seed: Annotated[int, Field(ge=0)]
    optim: dict[str, Any]  # what differs from the top level's `optim` and `train`
    train: dict[str, Any]


# -------------------------------------------------------------------------------------------------- methods and recipes


class MethodParams(Model):
    knobs: dict[str, Any]
    weights: dict[str, float]


class Stage(Model):
    """One training job of a recipe. What is left out is as in the top level of the parameters."""

    method: str
    init: dict[str, UserPath] | None = None
    # role -> scratch | pretrain | file:PATH | name of a stage of the same recipe; null: the student from pretrain
    knobs: dict[str, Any] = Field(default={})
    weights: dict[str, float] = Field(default={})
    network: dict[str, Any] = Field(default={})
    optim: dict[str, Any] = Field(default={})
    train: dict[str, Any] = Field(default={})
    labels: dict[str, Any] = Field(default={})  # `of`: the earlier stage that labels the target; and differences
    rounds: Rounds | None = None

    @model_validator(mode="after")
    def _weights_are_files(self) -> "Stage":
        for role, start in (self.init or {}).items():
            refuse_address(f"init.{role}", start)
        return self


class Recipe(Model):
    title: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,()+/-]{1,60}$")]
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    protocol: dict[str, Any] = Field(default={})  # what differs from `evaluate.protocol` when this recipe is scored


class Sweep(Model):
    """A recipe with other values at some of its parameters: every combination of lists, or points by name.

    A parameter is STAGE.PART.NAME, as it would stand below `recipes.RECIPE.stages`; `udaseg.study.sweeps` holds it
    against the recipe.
    """

    title: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:()+/-]{1,60}$")]
    recipe: Name
    until: Name | None = None  # the last stage that is trained; null: all are
    seeds: Seeds | None = None  # null: the study's
    over: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)] | None = None
    # parameter -> values
    points: Annotated[dict[PointName, dict[str, Any]], Field(min_length=1)] | None = None
    # name -> parameter -> value; `recipe` and `until` beside them say what is taken in the place of the sweep's

    @model_validator(mode="after")
    def _one_of_both(self) -> "Sweep":
        if (self.over is None) == (self.points is None):
            raise ValueError("over: give either it, lists of values for parameters, or `points`, parameters by name")
        for path, values in (self.over or {}).items():
            refuse_twice(f"over.{path}", values)
        refuse_twice("seeds", self.seeds or [])
        return self


class Pair(Model):
    """Two rows, of which a claim says that one is better."""

    better: Words
    than: Words


class Claim(Model):
    """One claim: that rows are better than others, in all of `pairs`, or that some rows are like another one."""

    name: Name
    claim: Words  # in our words
    paper: Words
    where: Words  # it is made
    pairs: list[Pair] = Field(default=[])
    alike: list[Words] = Field(default=[])  # rows that are like the row `to`
    to: Words | None = None
    margin: Annotated[float, Field(gt=0)] | None = None  # percentage points to either side that still are alike
    classes: Literal["rare"] | list[Name] | None = None  # of which the mIoU is compared; null: the headline's

    @model_validator(mode="after")
    def _one_of_both(self) -> "Claim":
        given = bool(self.alike), self.to is not None, self.margin is not None
        if bool(self.pairs) == any(given) or any(given) != all(given):
            raise ValueError("pairs: give either them, or all of `alike`, `to` and `margin`")
        if self.classes == []:
            raise ValueError("classes: is empty; leave it out for those of the headline")
        return self

    def rows(self) -> list[str]:
        """Every row that it needs, once."""
        pairs = (row for pair in self.pairs for row in (pair.better, pair.than))
        return list(dict.fromkeys([*pairs, *self.alike, *([] if self.to is None else [self.to])]))


class Report(Model):
    baseline: Name  # recipes between which 'gap closed' is measured
    oracle: Name


class Params(Model):
    study: Name
    seeds: Seeds
    run: Annotated[list[Name], Field(min_length=1)]  # recipes of this study, in the report's order
    sweep: list[Name]  # its sweeps
    mirror: UserPath | None  # folder of already downloaded archives, used before any network
    datasets: dict[Name, DatasetSpec]
    task: Task
    network: Network
    pretrain: Pretrain
    optim: Optim
    train: Train
    labels: Labels
    evaluate: Evaluate
    methods: dict[Name, MethodParams]
    recipes: dict[Name, Recipe]
    sweeps: dict[Name, Sweep]
    report: Report
    claims: list[Claim] = Field(default=[])  # what workflow/claims.yaml holds; params.yaml has none of it

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for path, name in (
            ("task.source.dataset", self.task.source.dataset),
            ("task.target.dataset", self.task.target.dataset),
            ("pretrain.dataset", self.pretrain.dataset),
        ):
            require_known(path, name, self.datasets)
        refuse_address("mirror", self.mirror or "")
        refuse_twice("seeds", self.seeds)
        refuse_twice("run", self.run)
        refuse_twice("sweep", self.sweep)
        for index, name in enumerate(self.sweep):
            require_known(f"sweep.{index}", name, self.sweeps)
        for path, name in (
            *((f"sweeps.{name}.recipe", sweep.recipe) for name, sweep in self.sweeps.items()),
            *((f"run.{index}", name) for index, name in enumerate(self.run)),
            ("report.baseline", self.report.baseline),
            ("report.oracle", self.report.oracle),
        ):
            require_known(path, name, self.recipes)
        return self

    @model_validator(mode="after")
    def _splits_exist(self) -> "Params":
        source, target, pretrain = self.task.source.dataset, self.task.target.dataset, self.pretrain.dataset
        for path, name, split, labelled in (
            ("task.source.dataset", source, "train", True),
            ("task.target.dataset", target, "train", False),
            ("pretrain.dataset", pretrain, "train", True),
            ("evaluate.monitor", target, self.evaluate.monitor, True),
            ("evaluate.report", target, self.evaluate.report, True),
        ):
            dataset = self.datasets[name]
            if split is not None and split not in dataset.splits():
                raise ValueError(f"{path}: data set '{name}' has no split '{split}', only {dataset.splits()}")
            if split is not None and labelled and not dataset.has_labels():
                way_out = "set it to null to do without scores" if "evaluate" in path else "take another"
                raise ValueError(
                    f"{path}: the split '{split}' of data set '{name}' has no labels (datasets.{name}.labels is null); "
                    f"{way_out}, or give the data set its labels"
                )
        return self


def refuse_address(key: str, path: str) -> None:
    """ValueError for an address in the place of a path. It is not repeated, as it may hold a password."""
    if "://" in path:
        raise ValueError(f"{key}: is an address; expected a path on this machine")


def refuse_twice(path: str, entries: Sequence[Any]) -> None:
    """ValueError when an entry stands in the list more than once."""
    twice = [entry for index, entry in enumerate(entries) if entry in entries[:index]]
    if twice:
        raise ValueError(f"{path}: names {twice[0]} twice")
