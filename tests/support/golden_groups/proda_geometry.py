"""ProDA: how maps follow the crop and the strong view."""

from fractions import Fraction
from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, tensor

from udaseg.data.batches.views import Geometry
from udaseg.ops.warp import Warp

ABSENT = 10000.0  # the amount of an operation that was not drawn
KEYS = {
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
}


def warps(arrays: Arrays) -> list[Warp]:
    """The warp of each image of a file with `strong_*` arrays."""
    found = []
    cutouts = arrays["strong_CutoutAbs"].tolist()
    for image, flipped in enumerate(arrays["strong_Hflip"].tolist()):
        amounts = {name: float(arrays[f"strong_{key}"][image]) for key, name in KEYS.items()}
        drawn = [(name, amount) for name, amount in amounts.items() if amount != ABSENT]
        operations: Any = [("flip", 0.0), *drawn] if flipped else drawn
        found.append(Warp(tuple(operations), tuple(cutouts[image]) if cutouts else None))
    return found


def cells_per_pixel(arrays: Arrays) -> float:
    return float(Fraction(1, int(arrays["scale"])))


def strong_warp(arrays: Arrays) -> dict[str, Any]:
    expected = []
    for label, warp in zip(tensor(arrays["label"]), warps(arrays), strict=True):
        warped, valid = warp.apply(label[None], cells_per_pixel(arrays), "nearest", "released")
        expected.append(warped[0].masked_fill(valid.logical_not(), int(arrays["padding"])))
    return {"expected": torch.stack(expected)}


def full2weak(arrays: Arrays) -> dict[str, Any]:
    expected = []
    for image, feature in enumerate(tensor(arrays["feat"])):
        top, bottom, left, right = arrays["crop_y1y2x1x2"][image].tolist()
        geometry = Geometry(
            resized=(int(arrays["resized_h"][image]), int(arrays["resized_w"][image])),
            offset=(top, left),
            crop=(len(range(top, bottom)), len(range(left, right))),
            flip=bool(arrays["hflip"][image]),
        )
        view, _ = geometry.at(float(Fraction(1, int(arrays.get("scale", 4))))).apply(feature, "aligned")
        expected.append(view)
    return {"expected": torch.stack(expected)}


CASES: dict[str, Golden] = {
    "proda.strong_warp": Golden(strong_warp, exact=["expected"]),
    "proda.full2weak": Golden(full2weak),
}
