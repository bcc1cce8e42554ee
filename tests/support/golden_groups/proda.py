"""ProDA: prototypes, denoised labels, its losses, and whole steps of stage 1."""

from typing import Any

import torch
from support.golden_groups.adversarial import adaptseg_poly_lr
from support.golden_groups.base import Arrays, Golden, decimal, tensor
from support.golden_groups.proda_geometry import cells_per_pixel, warps
from support.tiny import train_spec
from torch import Tensor, nn

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.data.batches.views import Geometry
from udaseg.engine.predict import to_tensor
from udaseg.engine.step import Stepper
from udaseg.methods.base import Context, Step
from udaseg.methods.proda.proda import ProDA
from udaseg.nets.base import Backbone, SegmentationNet
from udaseg.nets.heads import Head
from udaseg.ops import consistency, losses, prototypes, pseudo_labels, regularisers
from udaseg.ops.losses import cross_entropy
from udaseg.ops.maps import resize
from udaseg.types import IGNORE

RELEASED_IGNORE = 250


def ours(labels: Tensor) -> Tensor:
    """Labels of the release, with 255 where nothing is to be learnt."""
    return labels.long().masked_fill(labels == RELEASED_IGNORE, IGNORE)


def theirs(labels: Tensor) -> Tensor:
    return labels.masked_fill(labels == IGNORE, RELEASED_IGNORE)


# -------------------------------------------------------------------------------------------------------- prototypes


def class_means(arrays: Arrays, part: Any = ()) -> prototypes.ClassMeans:
    return prototypes.class_means(
        tensor(arrays["feat"][part]), tensor(arrays["logits"][part]), int(arrays["min_pixels"]),
        float(arrays.get("conf_threshold", 0.0)),
    )  # fmt: skip


def prototype(arrays: Arrays) -> dict[str, Any]:
    means = class_means(arrays)
    moved, counts = prototypes.momentum_update(
        tensor(arrays["eta0"]), tensor(arrays["num0"]), means, decimal(arrays["momentum"])
    )
    _, classes = means.present.nonzero(as_tuple=True)
    return {
        "expected_vectors": means.vectors[means.present],
        "expected_ids": classes,
        "expected_eta": moved,
        "expected_num": counts,
    }


def prototype_init(arrays: Arrays) -> dict[str, Any]:
    found = tensor(arrays["eta0"])
    counts = tensor(arrays["num0"]).expand(len(found))
    for batch in range(len(arrays["feat"])):
        means = class_means(arrays, batch)
        found, counts = prototypes.cumulative_update(found, counts, means, int(arrays["count_cap"]))
    return {"expected_eta": found, "expected_num": counts}


def weight(arrays: Arrays) -> dict[str, Any]:
    distances = prototypes.prototype_distances(tensor(arrays["feat"]), tensor(arrays["eta"]))
    return {
        "expected_distance": distances,
        "expected_weight": prototypes.assignment_weights(distances, decimal(arrays["temperature"])),
    }


# ------------------------------------------------------------------------------------------------------------ losses


def rectified(arrays: Arrays) -> dict[str, Any]:
    found = pseudo_labels.rectified_labels(
        tensor(arrays["soft_label"]), tensor(arrays["weight"]), decimal(arrays["threshold"])
    )
    # Where the release divides by 0, it calls the pixel class 0; here it is ignored.
    empty = tensor(arrays["expected_confidence"]).isnan()
    labels = theirs(found.labels)
    assert set(labels[empty].tolist()) <= {RELEASED_IGNORE}
    return {"expected_label": labels.masked_fill(empty, 0), "expected_confidence": found.confidence}


def sce(arrays: Arrays) -> dict[str, Any]:
    labels = ours(tensor(arrays["label"]))
    logits = {name: tensor(arrays["logits"], gradient=True) for name in ("ce", "rce")}
    ce = cross_entropy(logits["ce"], labels)
    rce = losses.reverse_cross_entropy(
        logits["rce"], labels, decimal(arrays["prob_clamp"]), decimal(arrays["onehot_clamp"])
    )
    torch.autograd.backward([ce, rce])
    both = losses.symmetric_cross_entropy(
        tensor(arrays["logits"]), labels, decimal(arrays["alpha"]), decimal(arrays["beta"])
    )
    return {
        "expected_ce": ce,
        "expected_rce": rce,
        "expected_sce": both,
        "expected_ce_grad": logits["ce"].grad,
        "expected_rce_grad": logits["rce"].grad,
    }


def regular(arrays: Arrays) -> dict[str, Any]:
    logits = tensor(arrays["logits"], gradient=True)
    mrkld = regularisers.regulariser(logits)
    mrkld.backward()
    return {
        "expected_mrkld": mrkld,
        "expected_mrkld_grad": logits.grad,
        "expected_mrent": regularisers.regulariser(tensor(arrays["logits"]), kind="mrent"),
    }


def structure_kl(arrays: Arrays) -> dict[str, Any]:
    eta, temperature = tensor(arrays["eta"]), decimal(arrays["temperature"])
    weak = prototypes.prototype_distances(tensor(arrays["teacher_feat_weak_view"]), eta)
    wanted, masks = [], []
    for warp, assignment in zip(warps(arrays), prototypes.assignment_weights(weak, temperature), strict=True):
        warped, valid = warp.apply(assignment, cells_per_pixel(arrays), "nearest", "released")
        wanted.append(warped)
        masks.append(valid)
    features = tensor(arrays["student_feat_strong_view"], gradient=True)
    logits = prototypes.assignment_logits(prototypes.prototype_distances(features, eta), temperature)
    loss = consistency.structure_kl(logits, torch.stack(wanted), torch.stack(masks))
    loss.backward()
    return {
        "expected_loss": loss,
        "expected_mask": torch.stack(masks).float(),
        "expected_student_grad": features.grad,
    }


def distill_kl(arrays: Arrays) -> dict[str, Any]:
    compared = {}
    for kd, key in (("paper", "intended"), ("released", "released")):
        logits = tensor(arrays["student_logits"], gradient=True)
        loss = consistency.distillation_kl(logits, tensor(arrays["teacher_logits"]), kd)
        loss.backward()
        compared |= {f"expected_{key}{'_code' if kd == 'released' else ''}": loss, f"expected_{key}_grad": logits.grad}
    return compared


# ------------------------------------------------------------------------------------------------------ whole steps


class ToyBackbone(Backbone):
    """tanh of a linear map of the mean colours of 8 x 8 pixels; and a buffer, as a BatchNorm would have."""

    head_feature = aux_feature = "toy"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.feature_channels = {"toy": channels}
        self.layers = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, channels, 1), nn.Tanh())
        self.register_buffer("statistics", torch.zeros(3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"toy": self.layers(images)}


class ToyHead(Head):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.embedding_channels = channels
        self.conv = nn.Conv2d(channels, classes, 1, bias=False)

    def classify(self, embedding: Tensor) -> Tensor:
        return self.conv(embedding)


TOY = {"wf": "backbone.layers.1.weight", "bf": "backbone.layers.1.bias", "wo": "head.conv.weight"}
TOY_BUFFER = "backbone.statistics"


def toy_weights(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    weights = {name: tensor(arrays[f"{prefix}_{key}"]) for key, name in TOY.items()}
    kernels = {name: value[..., None, None] if value.dim() == 2 else value for name, value in weights.items()}
    return {**kernels, TOY_BUFFER: tensor(arrays[f"{prefix}_buf"])}


def toy_compared(arrays: Arrays, net: nn.Module, prefix: str) -> dict[str, Any]:
    state = net.state_dict()
    named = {f"{prefix}_{key}": state[name] for key, name in {**TOY, "buf": TOY_BUFFER}.items()}
    return {f"expected_{key}": value.reshape(arrays[key].shape) for key, value in named.items()}


def toy_net(arrays: Arrays) -> SegmentationNet:
    classes, channels = arrays["net_wo"].shape
    net = SegmentationNet(ToyBackbone(channels), ToyHead(channels, classes), None, False, "train")
    net.normalise = nn.Identity()  # the toy takes colours as they are
    net.load_state_dict(toy_weights(arrays, "net"))
    return net


class ToyContext(Context):
    """Whatever network is asked for, it is the toy."""

    toy: SegmentationNet

    def build_net(self, role: str = "student", levels: int = 1) -> SegmentationNet:
        return self.toy


def pictures(arrays: Arrays, name: str) -> Tensor:
    return torch.cat([to_tensor(image.transpose(1, 2, 0)) for image in arrays[f"{name}_img_u8"]])


def step_batch(arrays: Arrays) -> Batch:
    image = pictures(arrays, "target")
    height, width = image.shape[2:]
    lowres = tensor(arrays["target_soft_lowres"])
    drawn = zip(
        *(arrays[key].tolist() for key in ("resized_h", "resized_w", "crop_y1y2x1x2", "weak_hflip")), strict=True
    )
    geometry = tuple(
        Geometry(resized=(rows, columns), offset=(top, left), crop=(height, width), flip=flip)
        for rows, columns, (top, _, left, _), flip in drawn
    )
    target = Target(
        image=image,
        valid=torch.ones(len(image), height, width).bool(),
        soft=resize(resize(lowres, (height, width)), geometry[0].at(0.25).crop),
        full=pictures(arrays, "target_full"),
        geometry=geometry,
        strong=pictures(arrays, "target_strong"),
        warps=tuple(warps(arrays)),
    )
    return Batch(Labelled(pictures(arrays, "source"), ours(tensor(arrays["source_label"]))), target)


def step1(arrays: Arrays) -> dict[str, Any]:
    options = [decimal(option) for option in arrays["opt"]]
    alpha, beta, reg, consist, temperature, momentum, threshold, symmetric, moving = options
    spec = train_spec(
        "proda",
        knobs={
            "symmetric": bool(symmetric), "moving_prototypes": bool(moving), "alpha": alpha, "beta": beta,
            "temperature": temperature, "prototype_momentum": momentum, "threshold": threshold,
            "teacher_mode": "released", "strong_warp": "released",
        },
        weights={"reg": reg, "consist": consist},
        optim={"name": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"},
    )  # fmt: skip
    eta = tensor(arrays["eta0"])
    context = ToyContext(
        knobs=ProDA.SPEC.Config.model_validate(spec.knobs),
        weights=ProDA.SPEC.active(spec.weights),
        classes=[str(index) for index in range(len(eta))],
        network=spec.network,
        seed=0,
        artifacts={"prototypes": eta, "counts": torch.ones(len(eta))},
    )
    context.toy = toy_net(arrays)
    method = ProDA(context)
    method.teacher.net.load_state_dict(toy_weights(arrays, "ema"))
    run, batch = Stepper(spec, method, torch.device("cpu")), step_batch(arrays)

    _, terms = method.losses(batch, Step(0, 1, context.weights, torch.Generator()))
    if tensor(arrays["expected_loss_sce_plus_reg"]).isnan():
        # The release's NaN is that of a mean over no label; ours is 0.
        totals = dict.fromkeys(("expected_loss_target_total", "expected_loss_sce_plus_reg"), terms["sce"])
    else:
        on_labels = {name: term for name, term in terms.items() if name != "consist"}
        totals = {
            "expected_loss_target_total": run._weighted_sum(terms, 0, 1.0, {}),
            "expected_loss_sce_plus_reg": run._weighted_sum(on_labels, 0, 1.0, {}),
        }
    run(0, [batch])
    return {
        **totals,
        "expected_loss_structure": terms.get("consist", 0.0),
        **toy_compared(arrays, method.net, "net"),
        **toy_compared(arrays, method.teacher.net, "ema"),
        "expected_eta": method.prototypes,
    }


def poly_lr(arrays: Arrays) -> dict[str, Any]:
    return {"f64_expected_lr": adaptseg_poly_lr(arrays)["f64_expected_lr"]}


CASES: dict[str, Golden] = {
    "proda.prototype": Golden(prototype, tolerances={"": (1e-5, 1e-5)}, exact=["expected_ids", "expected_num"]),
    "proda.prototype_init": Golden(prototype_init, exact=["expected_num"]),
    # Distances of ten thousands, in float32: their last digit decides between the nearest two of a pixel.
    "proda.weight": Golden(weight, tolerances={"expected_weight": (1e-4, 2e-3)}),
    "proda.rectified": Golden(rectified, exact=["expected_label"], guard={"expected_confidence": 0.0}),
    "proda.sce": Golden(sce, guard={"expected_ce": 0.0, "expected_sce": 0.0}),
    "proda.regular": Golden(regular),
    "proda.structure_kl": Golden(
        structure_kl,
        exact=["expected_mask"],
        guard={"expected_loss": 0.0, "expected_student_grad": 0.0},
    ),
    "proda.distill_kl": Golden(distill_kl),
    "proda.step1": Golden(
        step1,
        tolerances={"": (1e-4, 1e-6)},
        guard={"expected_loss_target_total": 0.0, "expected_loss_sce_plus_reg": 0.0},
    ),
    "proda.poly_lr": Golden(poly_lr, tolerances={"": (1e-9, 0.0)}),
}
