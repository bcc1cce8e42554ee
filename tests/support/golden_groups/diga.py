"""DiGA: distillation between views, CrDoMix, feature-induced labels, consensus and centroids."""

from typing import Any

from support.golden_groups.base import Arrays, Golden, decimal, sizes, tensor
from support.golden_groups.self_training import ema

from udaseg.methods.diga import warmup
from udaseg.ops import mixing, prototypes, pseudo_labels
from udaseg.ops.consistency import cross_view_distillation
from udaseg.ops.losses import cross_entropy, weighted_cross_entropy
from udaseg.ops.prototypes import momentum_update

EXACT = 1e-5  # margin of the upsampled softmax from which on the file calls its label exact


def distill(arrays: Arrays) -> dict[str, Any]:
    student = tensor(arrays["student_logits"], gradient=True)
    loss = cross_view_distillation(student, tensor(arrays["teacher_logits"]), decimal(arrays["scale"]))
    loss.backward()
    return {"loss": loss, "grad_student": student.grad}


def ce(arrays: Arrays) -> dict[str, Any]:
    logits, labels = tensor(arrays["logits"]), tensor(arrays["labels"])
    return {"loss": weighted_cross_entropy(logits, labels, None), "loss_valid_mean": cross_entropy(logits, labels)}


def centroid(arrays: Arrays) -> dict[str, Any]:
    logits, before = tensor(arrays["pred_logits"]), tensor(arrays["centroids_before"]).float()
    means = prototypes.confirmed_means(
        tensor(arrays["feat"]), logits, tensor(arrays["labels"]), int(arrays["min_pixels"])
    )
    after, _ = momentum_update(before, before.new_ones(len(before)), means, decimal(arrays["momentum"]))
    vectors = means.vectors[means.present]
    _, classes = means.present.nonzero(as_tuple=True)
    width = arrays["vectors"].shape[1]
    return {"vectors": vectors[:, :width], "vector_class_ids": classes, "centroids_after": after}


def featlabel(arrays: Arrays) -> dict[str, Any]:
    found = pseudo_labels.feature_labels(tensor(arrays["feat"]), tensor(arrays["centroids"]), sizes(arrays["out_size"]))
    tied = tensor(arrays["margin"]) <= EXACT
    labels = found.labels.clone()
    labels[tied] = tensor(arrays["feat_label"])[tied]
    return {"weight": found.weights, "feat_label": labels}


def agreement(arrays: Arrays) -> dict[str, Any]:
    found = pseudo_labels.bilateral_consensus(tensor(arrays["prob_label"]), tensor(arrays["feat_label"]))
    return {"consensus": found.labels, "kept_fraction": found.kept}


def mixture(arrays: Arrays) -> dict[str, Any]:
    chosen = list(tensor(arrays["chosen_classes"]))  # padded with -1, which is no label
    mask = mixing.kept_mask(tensor(arrays["labels"]), chosen)
    return {"mask": mask, "mixed": mixing.mix(mask, tensor(arrays["source_aug"]), tensor(arrays["translated"]))}


def diga_ema(arrays: Arrays) -> dict[str, Any]:
    return ema(arrays, warmup.Config().ema)


CASES = {
    "diga.distill": Golden(distill, tolerances={"loss": (1e-5, 0.0), "grad_student": (1e-4, 1e-8)}),
    "diga.ce": Golden(ce, tolerances={"": (1e-5, 0.0)}, guard={"loss_valid_mean": 0.0}),
    "diga.centroid": Golden(
        centroid,
        tolerances={"centroids_after": (0.0, 1e-6), "vectors": (1e-4, 1e-6)},
        exact=["vector_class_ids"],
    ),
    "diga.featlabel": Golden(featlabel, tolerances={"weight": (0.0, 1e-5)}, exact=["feat_label"]),
    "diga.consensus": Golden(agreement, tolerances={"kept_fraction": (0.0, 1e-7)}, exact=["consensus"]),
    "diga.crdomix": Golden(mixture, exact=["mask", "mixed"]),
    "diga.ema": Golden(diga_ema, tolerances={"": (1e-6, 1e-7)}),
}
