"""CPSL: transport with a prior, self-labels, what is drawn, rectified labels, its losses."""

from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, decimal, tensor
from support.golden_groups.proda import ours, theirs

from udaseg.nets.prototype_assignment import FeatureQueue
from udaseg.ops import class_balance, consistency, losses, prototype_assignment, prototypes, pseudo_labels
from udaseg.ops.adversarial import output_space
from udaseg.ops.losses import cross_entropy
from udaseg.ops.prototype_assignment import sinkhorn


def transport(arrays: Arrays) -> dict[str, Any]:
    found = sinkhorn(
        tensor(arrays["scores"]), tensor(arrays["prior"]), decimal(arrays["epsilon"]), int(arrays["iterations"])
    )
    return {guarded(arrays, "q"): found}


def guarded(arrays: Arrays, key: str) -> str:
    """Where the release overflows or divides by 0, files have what is meant beside what it gives."""
    return f"{key}_guarded" if f"{key}_guarded" in arrays else key


def self_label(arrays: Arrays) -> dict[str, Any]:
    found, rows = tensor(arrays["proto"], gradient=True), tensor(arrays["feat"])
    queue = FeatureQueue(*arrays["queue"].shape)
    queue.push(tensor(arrays["queue"][arrays["queue"].any(axis=1)]))
    assert queue.full == bool(arrays["use_queue"])
    scores = prototype_assignment.row_scores(rows, found)
    earlier = prototype_assignment.row_scores(queue.ring, found.detach(), normalise=False) if queue.full else None
    assignment = prototype_assignment.balanced_assignment(
        scores, tensor(arrays["prior"]), decimal(arrays["epsilon"]), int(arrays["iterations"]), earlier
    )
    loss = prototype_assignment.self_label_loss(scores, assignment, decimal(arrays["temperature"]))
    loss.backward()
    queue.push(rows)
    after = arrays["queue_after"][arrays["queue_after"].any(axis=1)]
    assert queue.rows().tolist() == after.tolist()
    gradient = {} if "loss_guarded" in arrays else {"grad_proto": found.grad}
    return {guarded(arrays, "q"): assignment, guarded(arrays, "loss"): loss, **gradient}


def sample_count(arrays: Arrays) -> dict[str, Any]:
    labels, classes = tensor(arrays["labels"])[None], int(arrays["num_classes"])
    return {
        "delta": class_balance.class_shares(labels, classes)[0],
        "counts": class_balance.sample_counts(labels, classes, int(arrays["M"]))[0],
    }


def moving_prior(arrays: Arrays) -> dict[str, Any]:
    prior, priors = tensor(arrays["dist0"]), []
    for shares in tensor(arrays["deltas"]):
        prior = class_balance.moving_prior(prior, shares, decimal(arrays["alpha"]))
        priors.append(prior)
    return {"dist": torch.stack(priors)}


def rectified(arrays: Arrays) -> dict[str, Any]:
    logits = prototype_assignment.cosine_logits(
        tensor(arrays["feat"]), tensor(arrays["prototypes"]), decimal(arrays["temperature"])
    )
    weight = output_space(logits, logits.shape[-2:])  # its softmax: nothing is resized
    found = pseudo_labels.rectified_labels(tensor(arrays["soft_label"]), weight, decimal(arrays["threshold"]))
    return {
        "weight": weight,
        "rectified_label": theirs(found.labels)[:, None],
        "confidence": found.confidence[:, None],
    }


def rce(arrays: Arrays) -> dict[str, Any]:
    logits, labels = tensor(arrays["logits"]), ours(tensor(arrays["labels"]))
    weights = decimal(arrays["ce_weight"]), decimal(arrays["rce_weight"])
    return {
        "rce": losses.reverse_cross_entropy(logits, labels),
        "ce": cross_entropy(logits, labels),
        "symmetric_ce": losses.symmetric_cross_entropy(logits, labels, *weights),
    }


def view_agreement(arrays: Arrays) -> dict[str, Any]:
    teacher = tensor(arrays["teacher_cosine"])
    known = (teacher != int(arrays["pad_id"])).any(dim=1)
    loss = consistency.prototype_consistency(
        tensor(arrays["student_cosine"]), teacher, known, decimal(arrays["temperature"])
    )
    return {"loss": loss}


def prototype_init(arrays: Arrays) -> dict[str, Any]:
    classes, width = arrays["prototypes"].shape
    means = prototypes.class_means(tensor(arrays["feat"]), tensor(arrays["logits"]), int(arrays["min_pixels"]))
    found, counts = prototypes.cumulative_update(torch.zeros(classes, width), torch.zeros(classes), means)
    return {"prototypes": found, "num_updates": counts}


ROWS = (1e-4, 1e-6)
CASES: dict[str, Golden] = {
    "cpsl.sinkhorn": Golden(transport, tolerances={"": ROWS}),
    "cpsl.selflabel": Golden(self_label, tolerances={"": ROWS, "loss": (1e-5, 0.0), "loss_guarded": (1e-4, 0.0)}),
    "cpsl.samplecount": Golden(sample_count, tolerances={"delta": (0.0, 1e-7)}, exact=["counts"]),
    "cpsl.distupdate": Golden(moving_prior, tolerances={"": (0.0, 1e-6)}),
    "cpsl.rectify": Golden(rectified, tolerances={"": (2e-4, 1e-6)}, exact=["rectified_label"]),
    "cpsl.rce": Golden(rce, tolerances={"": (1e-5, 0.0)}, guard={"ce": 0.0, "symmetric_ce": 0.0}),
    "cpsl.consist": Golden(view_agreement, tolerances={"": (1e-4, 1e-8)}),
    "cpsl.protoinit": Golden(prototype_init, tolerances={"": (1e-4, 1e-5)}, exact=["num_updates"]),
}
