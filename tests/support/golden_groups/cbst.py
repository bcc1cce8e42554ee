"""CBST and CRST."""

from types import SimpleNamespace
from typing import Any

from support.golden_groups.base import Arrays, Golden, decimal, tensor
from torch import Tensor

from udaseg.engine.step import Stepper
from udaseg.ops.losses import cross_entropy, soft_cross_entropy
from udaseg.ops.regularisers import kld_regulariser
from udaseg.ops.schedules import portions, round_rates
from udaseg.ops.selection import ClassPools, class_balanced_labels, entropy_labels, mined_classes, rare_classes
from udaseg.types import IGNORE


def probabilities(arrays: Arrays) -> Tensor:
    """(n, C, H, W), where files have channels last."""
    return tensor(arrays["prob"]).movedim(-1, 1)


def selection(arrays: Arrays) -> tuple[Tensor, dict[str, Any]]:
    """A file's thresholds, and what is compared of its pools."""
    probs = probabilities(arrays)
    pools = ClassPools(probs.shape[1], float(arrays["f64_portion"]), int(arrays["ds_rate"]))
    while pools.complete is False:
        for image in probs:
            pools.feed(image)
        pools.end_pass()
    mine_below = decimal(arrays["mine_port"]) if "mine_port" in arrays else 0.001
    rare = int(arrays["rare_cls_num"]) if "rare_cls_num" in arrays else 3
    return pools.thresholds(), {
        "expected_thresh": pools.thresholds(),
        "expected_sel_size": pools.ranks,
        "expected_pool_size": pools.sizes,
        "expected_pred_pixels": pools.predicted,
        "expected_rare_ids": ranked(arrays, "expected_rare_ids", rare_classes(pools.predicted, rare)),
        "expected_mine_ids": ranked(arrays, "expected_mine_ids", mined_classes(pools.predicted, mine_below)),
    }


def ranked(arrays: Arrays, key: str, ids: list[int]) -> list[int]:
    """`ids`, in the file's order where that names classes of the same pixel counts: among tied ones order is chance."""
    pixels, theirs = arrays["expected_pred_pixels"].tolist(), arrays[key].tolist()
    distinct = len(set(theirs)) == len(theirs)
    same = [pixels[index] for index in ids] == [pixels[index] for index in theirs]
    return theirs if distinct and same else ids


def cbst_pseudo(arrays: Arrays) -> dict[str, Any]:
    thresholds, compared = selection(arrays)
    return compared | {"expected_label": class_balanced_labels(probabilities(arrays), thresholds)}


def crst_lrent(arrays: Arrays) -> dict[str, Any]:
    thresholds, compared = selection(arrays)
    labels = entropy_labels(probabilities(arrays), thresholds, decimal(arrays["lrent_weight"]))
    return compared | {"expected_label": labels.hard, "expected_soft_label": labels.soft.movedim(1, -1)}


SELECTION = [
    *("expected_thresh", "expected_sel_size", "expected_pool_size", "expected_pred_pixels", "expected_rare_ids"),
    *("expected_mine_ids", "expected_label"),
]


def cbst_schedule(arrays: Arrays) -> dict[str, Any]:
    rounds, *growths = arrays["f64_args_rounds_tgt0_tgtmax_tgtstep_src0_srcmax_srcstep"].tolist()
    crst = str(arrays["kind"]) == "crst"
    shares = {
        domain: portions(int(rounds), start, step, most, "paper" if crst else "released")
        for domain, (start, most, step) in (("target", growths[:3]), ("source", growths[3:]))
    }
    last = -1 if crst else None  # CRST's last round is an evaluation only
    # The files hold rates of CBST only: from 1e-4 on, by the square root of 2 less in each round.
    rates = [] if crst else round_rates(int(rounds), 1e-4, 0.7071067811865476)
    return {f"f64_expected_{domain}_portion": share[:last] for domain, share in shares.items()} | {
        "f64_expected_lr": rates
    }


def crst_mrkld_loss(arrays: Arrays) -> dict[str, Any]:
    logits, labels = tensor(arrays["logits"], gradient=True), tensor(arrays["label"]).long()
    strength = tensor(arrays["reg_weight_per_sample"])  # the released reading: the weight, and once more below
    terms = {"seg": cross_entropy(logits, labels), "kld": kld_regulariser(logits, labels != IGNORE, strength)}
    engine: Any = SimpleNamespace(weights={"seg": 1.0, "kld": decimal(arrays["mrkld_weight"])})
    loss = Stepper._weighted_sum(engine, terms, index=0, share=1.0, sums={})
    loss.backward()
    return {"expected_loss": loss, "expected_grad": logits.grad}


def crst_soft_ce_loss(arrays: Arrays) -> dict[str, Any]:
    logits = tensor(arrays["logits"], gradient=True)
    loss = soft_cross_entropy(logits, tensor(arrays["soft_label"]))
    loss.backward()
    return {"expected_loss": loss, "expected_grad": logits.grad}


CASES: dict[str, Golden] = {
    "cbst.pseudo": Golden(cbst_pseudo, exact=SELECTION),
    "cbst.schedule": Golden(cbst_schedule, tolerances={"": (1e-12, 0.0)}),
    "crst.lrent": Golden(crst_lrent, exact=SELECTION),
    "crst.mrkld_loss": Golden(crst_mrkld_loss, guard={"expected_loss": 0.0, "expected_grad": 0.0}),
    "crst.soft_ce_loss": Golden(crst_soft_ce_loss, guard={"expected_loss": 0.0, "expected_grad": 0.0}),
}
