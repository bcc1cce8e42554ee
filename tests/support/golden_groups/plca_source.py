"""PLCA's terms on single images: Lovász-Softmax and the smoothing of predictions."""

from typing import Any

from support.golden_groups.base import Arrays, Golden, decimal, tensor

from udaseg.ops.lovasz import lovasz_softmax
from udaseg.ops.regularisers import label_smoothing


def plca_lovasz(arrays: Arrays) -> dict[str, Any]:
    logits = tensor(arrays["logits"], gradient=True)
    loss = lovasz_softmax(logits, tensor(arrays["labels"]))
    loss.backward()
    fixed = "_fixed" if "loss_fixed" in arrays else ""  # what is meant, where the release fails
    return {f"loss{fixed}": loss, f"grad_logits{fixed}": logits.grad}


def plca_lsr(arrays: Arrays) -> dict[str, Any]:
    logits = tensor(arrays["logits"], gradient=True)
    loss = label_smoothing(logits, decimal(arrays["thres"]))
    loss.backward()
    return {"loss": loss, "grad_logits": logits.grad}


GRADIENT = (2e-3, 1e-5)

CASES = {
    "plca.lovasz": Golden(
        plca_lovasz, tolerances={"": (1e-4, 1e-5), "grad_logits": GRADIENT, "grad_logits_fixed": GRADIENT}
    ),
    "plca.lsr": Golden(plca_lsr, tolerances={"": (1e-4, 1e-5), "grad_logits": GRADIENT}),
}
