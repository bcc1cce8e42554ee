"""DACS, DAFormer and MIC."""

from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, decimal, network, sizes, tensor
from torch import nn

from udaseg.engine.optimizers import Optimizers, rate_factor, scale_rates
from udaseg.nets.teacher import EmaTeacher
from udaseg.ops import mixing
from udaseg.ops.class_balance import rare_class_probabilities
from udaseg.ops.feature_distance import feature_distance, shrink_labels, thing_cells
from udaseg.ops.losses import weighted_cross_entropy
from udaseg.ops.pseudo_labels import confidence_weighted
from udaseg.ops.schedules import ema_keep

CITYSCAPES = 19  # classes, of which the releases know no other number


def daformer_classmix(arrays: Arrays) -> dict[str, Any]:
    chosen = list(tensor(arrays["chosen_classes"]))  # padded with -1, which is no label
    mask = mixing.class_mask(tensor(arrays["source_label"]), chosen)
    weight = tensor(arrays["pseudo_weight"])
    return {
        "mask": mask,
        "mixed_img": mixing.mix(mask, tensor(arrays["source_img"]), tensor(arrays["target_img"])),
        "mixed_label": mixing.mix(mask, tensor(arrays["source_label"]), tensor(arrays["pseudo_label"])),
        "mixed_weight": mixing.mix(mask, weight.new_ones(weight.shape), weight),
    }


def daformer_rcs(arrays: Arrays) -> dict[str, Any]:
    counts = tensor(arrays["counts"])
    # The rarest class is the likeliest; at a low temperature several chances are 0 in float32, which has no order.
    ordered, classes = rare_class_probabilities(counts, 1.0).sort(descending=True, stable=True)
    classes = classes[ordered > 0]
    return {"classes": classes, "probs": rare_class_probabilities(counts, decimal(arrays["temperature"]))[classes]}


def ema(arrays: Arrays, most: float) -> dict[str, Any]:
    """A teacher of one parameter through all its updates."""
    teacher, student = (holder(arrays[name]) for name in ("teacher_before", "student"))
    moving = EmaTeacher(teacher, buffers="own", mode="train")
    kept, after = [], []
    for iteration in arrays["iterations"].tolist():
        kept.append(ema_keep(iteration, most))
        moving.update(student, kept[-1])
        after.append(moving.net.weight.clone())
    return {"keep": kept, "teacher_after": torch.stack(after)}


def holder(array: Any) -> Any:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(tensor(array)))
    return module


def daformer_ema(arrays: Arrays) -> dict[str, Any]:
    return ema(arrays, decimal(arrays["alpha_max"]))


def daformer_pseudoweight(arrays: Arrays) -> dict[str, Any]:
    found = confidence_weighted(
        tensor(arrays["teacher_logits"]),
        decimal(arrays["threshold"]),
        int(arrays["ignore_top"]),
        int(arrays["ignore_bottom"]),
    )
    return {"pseudo_label": found.labels, "quality": found.quality, "pseudo_weight": found.weight}


def daformer_fd(arrays: Arrays) -> dict[str, Any]:
    labels, features = tensor(arrays["labels"]), tensor(arrays["feat_student"], gradient=True)
    size, share = arrays["feat_student"].shape[2:], decimal(arrays["min_ratio"])
    mask = thing_cells(labels, size, arrays["thing_classes"].tolist(), CITYSCAPES, share)
    distance = feature_distance(features, tensor(arrays["feat_imagenet"]), mask)
    loss = prod((distance, decimal(arrays["lam"])))
    loss.backward()
    compared = {
        "label_small": shrink_labels(labels, size, CITYSCAPES, share),
        "mask": mask,
        "dist": distance,
        "loss": loss,
        "loss_guarded": loss,
    }
    return compared | ({"grad_feat": features.grad} if "grad_feat" in arrays else {})


def daformer_wce(arrays: Arrays) -> dict[str, Any]:
    logits, labels, weight = (tensor(arrays[name]) for name in ("logits", "labels", "weight"))
    return {"loss": weighted_cross_entropy(logits, labels, weight)}


def daformer_lr(arrays: Arrays) -> dict[str, Any]:
    settings: Any = SimpleNamespace(
        name="adamw", lr=decimal(arrays["base"]), head_lr_factor=10.0, momentum=0.0, weight_decay=0.01,
        schedule="poly", power=decimal(arrays["power"]), schedule_iterations=None,
        warmup_iterations=int(arrays["warmup_iters"]), backbone_lr_multiplicity=1,
    )  # fmt: skip
    optimizer = Optimizers(settings).network(network("small", 50, "train", classes=2, levels=1))
    rates = []
    for iteration in arrays["iterations"].tolist():
        scale_rates(optimizer, rate_factor(settings, iteration, int(arrays["max_iters"])))
        rates.append([group["lr"] for group in optimizer.param_groups])
    backbone, head = zip(*rates, strict=True)
    return {"lr_encoder": backbone, "lr_head": head}


def mic_blockmask(arrays: Arrays) -> dict[str, Any]:
    size, block = sizes(arrays["size"]), int(arrays["block"])
    return {"mask": mixing.block_mask(size, block, decimal(arrays["ratio"]), tensor(arrays["uniform"]))}


CASES = {
    "daformer.classmix": Golden(daformer_classmix, exact=["mask", "mixed_img", "mixed_label", "mixed_weight"]),
    "daformer.rcs": Golden(daformer_rcs, tolerances={"probs": (1e-4, 2e-5)}, exact=["classes"]),
    "daformer.ema": Golden(daformer_ema, tolerances={"": (1e-6, 1e-7)}),
    "daformer.pseudoweight": Golden(daformer_pseudoweight, tolerances={"": (0.0, 1e-7)}, exact=["pseudo_label"]),
    "daformer.fd": Golden(
        daformer_fd,
        tolerances={"": (1e-5, 0.0), "grad_feat": (1e-5, 1e-10)},
        exact=["label_small", "mask"],
        guard={"dist": 0.0, "loss": 0.0},
    ),
    "daformer.wce": Golden(daformer_wce, tolerances={"": (1e-5, 0.0)}),
    "daformer.lr": Golden(daformer_lr, tolerances={"": (1e-5, 0.0)}),
    "mic.blockmask": Golden(mic_blockmask, exact=["mask"]),
}
