"""PiPa's pixel contrast: its loss, and sampling with it."""

from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, decimal, tensor

from udaseg.ops import maps, pixel_contrast


def contrast_loss(arrays: Arrays) -> dict[str, Any]:
    anchors = tensor(arrays["anchors"], gradient=True)
    loss = pixel_contrast.pixel_contrast(
        anchors, tensor(arrays["anchor_class"]), decimal(arrays["temperature"]), decimal(arrays["base_temperature"])
    )
    loss.backward()
    return {"loss": loss, "grad_anchors": anchors.grad}


def pixel_full(arrays: Arrays) -> dict[str, Any]:
    """Draws of our own are compared by what does not depend on chance; the loss is that of the release's draws."""
    labels = tensor(arrays["label_down"])
    views = pixel_contrast.sample_views(
        labels,
        tensor(arrays["predict"]),
        torch.Generator(),
        int(arrays["max_views"]),
        int(arrays["max_samples"]),
        ignore=None,
    )
    for label, indices in zip(views.classes.tolist(), views.indices, strict=True):
        assert set(labels.flatten()[indices].tolist()) == {label}
        assert len(set(indices.tolist())) == len(indices)
    embedding = tensor(arrays["embedding"], gradient=True)
    anchors = maps.take_pixels(embedding, tensor(arrays["sampled_flat_index"]))
    loss = pixel_contrast.pixel_contrast(anchors, views.classes)
    loss.backward()
    return {
        "sampled_class": views.classes,
        "kept_hard_easy": views.kept,
        "n_view": views.indices.shape[1],
        "loss": loss,
        "grad_embedding": embedding.grad,
    }


LOSS = (1e-4, 1e-5)
GRADIENT = (2e-3, 1e-5)
CASES = {
    "pipa.pixel_contrast": Golden(
        contrast_loss, tolerances={"loss": LOSS, "grad_anchors": GRADIENT}, guard={"loss": 0.0}
    ),
    "pipa.pixel_full": Golden(
        pixel_full,
        tolerances={"loss": LOSS, "grad_embedding": GRADIENT},
        exact=["sampled_class", "kept_hard_easy", "n_view"],
        guard={"loss": 0.0},
    ),
}
