"""The class-wise memory bank: its contrast and its updates, with linear selectors in place of networks."""

from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, tensor
from torch import Tensor, nn

from udaseg.ops import feature_bank


class LinearScores(nn.Module):
    """The selectors of all classes as one layer."""

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        classes, width = weight.shape
        self.layer = nn.Conv2d(width, classes, 1)
        self.layer.load_state_dict({"weight": tensor(weight)[..., None, None], "bias": tensor(bias)})

    def forward(self, rows: Tensor, index: int) -> Tensor:
        return self.layer(rows[..., None, None])[:, index, 0, 0]

    def gradient(self, like: Any) -> Tensor:
        """Of the weights; zeros where no class took part."""
        found = self.layer.weight.grad
        return torch.zeros(like.shape) if found is None else found.reshape(like.shape)


def contrast_loss(arrays: Arrays) -> dict[str, Any]:
    labels, memory, counts = (tensor(arrays[key]) for key in ("labels", "bank", "bank_count"))
    selectors = LinearScores(arrays["sel_w"], arrays["sel_b"])
    memory_selectors = LinearScores(arrays["selmem_w"], arrays["selmem_b"])
    features = tensor(arrays["features"], gradient=True)
    released = feature_bank.bank_contrast(features, labels, memory, counts, selectors)
    released.backward()
    compared = {"grad_features": features.grad, "grad_sel_w": selectors.gradient(arrays["sel_w"])}
    paper = feature_bank.bank_contrast(features, labels, memory, counts, selectors, memory_selectors)
    return {"loss_official": released, "loss_paper": paper, **compared}


def bank_update(arrays: Arrays) -> dict[str, Any]:
    classes, width = arrays["sel_w"].shape
    size = int(arrays["memory_per_class"])
    selectors = LinearScores(arrays["sel_w"], arrays["sel_b"])
    share = feature_bank.quota(size, int(arrays["num_labeled_samples"]), classes if arrays["is_pascal"] else None)
    most = int(arrays["keep_per_step"])
    compared: dict[str, Any] = {"per_class_samples_per_image": share}
    for keep in ("lowest", "highest"):
        memory, counts = torch.zeros(classes, size, width), torch.zeros(classes).long()
        for index, (features, labels) in enumerate(zip(arrays["features"], arrays["labels"], strict=True)):
            memory, counts = feature_bank.update_bank(
                memory, counts, tensor(features), tensor(labels), most, selectors, keep
            )
            if keep == "lowest":
                compared |= {f"bank_after_{index}": memory, f"count_after_{index}": counts}
    return {**compared, "paper_bank_final": memory, "paper_count_final": counts}


CASES: dict[str, Golden] = {
    "membank.contrast_loss": Golden(
        contrast_loss, tolerances={"": (1e-4, 1e-5)} | dict.fromkeys(("grad_features", "grad_sel_w"), (2e-3, 1e-6))
    ),
    "membank.bank_update": Golden(bank_update, exact=["per_class_samples_per_image", "paper_count_final"]),
}
