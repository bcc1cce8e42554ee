"""PiPa's patch contrast, as released."""

from math import prod
from typing import Any

import torch
from support.golden_groups.base import Arrays, Golden, decimal, tensor
from torch import Tensor

from udaseg.ops.maps import as_rows
from udaseg.ops.patch_contrast import Bank, bank_contrast, empty_bank, pushed
from udaseg.ops.patches import Box, corresponding_cells, upright
from udaseg.types import IGNORE

STEPS = 3  # that the bank keeps


def boxes(arrays: Arrays) -> list[tuple[Box, Box]]:
    corners = zip(*(arrays[f"overlap{crop}_{end}"].tolist() for crop in (1, 2) for end in ("ul", "br")), strict=True)
    return [(Box(*ul1, *br1), Box(*ul2, *br2)) for ul1, br1, ul2, br2 in corners]


def cells(arrays: Arrays, maps: list[Tensor]) -> Tensor:
    """All cells of the upright maps (B, ..., h, w) of the first and then of the second crops, one a row."""
    flips = arrays["flip"].astype(bool).T.tolist()
    both = torch.cat([upright(*pair) for pair in zip(maps, flips, strict=True)])
    return both.flatten() if both.dim() == 3 else as_rows(both)


def bank_of(arrays: Arrays, rows: Tensor, labels: Tensor) -> Bank:
    """The bank with the earlier steps and all of this one."""
    bank = empty_bank(STEPS, *rows.shape)
    for step in zip(tensor(arrays["prev_bank_feat"]), tensor(arrays["prev_bank_label"]), strict=True):
        bank = pushed(bank, *step)
    return pushed(bank, rows, labels)


def patch_contrast(arrays: Arrays) -> dict[str, Any]:
    maps = [tensor(arrays[f"feat{crop}"], gradient=True) for crop in (1, 2)]
    rows = cells(arrays, maps)
    labels, confidence = (
        cells(arrays, [tensor(arrays[f"{name}{crop}"]) for crop in (1, 2)]) for name in ("pseudo", "conf")
    )
    places = corresponding_cells(boxes(arrays), maps[0].shape[2:], int(arrays["stride"]))
    bank = bank_of(arrays, rows, labels)
    found = bank_contrast(
        rows, *places, labels, confidence, bank, decimal(arrays["temperature"]), decimal(arrays["conf_threshold"])
    )
    weighted = prod((found.loss, decimal(arrays["weight"])))
    weighted.backward()
    return {
        "bank_steps_after": len([step for step in bank.labels.tolist() if set(step) != {IGNORE}]),
        "num_overlap": len(places[0]),
        "num_pos_1": found.counted[0],
        "num_pos_2": found.counted[1],
        "loss1": found.parts[0],
        "loss2": found.parts[1],
        "loss_weighted": weighted,
        "grad_feat1": maps[0].grad,
        "grad_feat2": maps[1].grad,
    }


CASES = {
    "pipa.patch_contrast": Golden(
        patch_contrast,
        tolerances={"": (1e-4, 1e-5), "grad_feat1": (2e-3, 1e-5), "grad_feat2": (2e-3, 1e-5)},
        exact=["num_overlap", "num_pos_1", "num_pos_2", "bank_steps_after"],
    ),
}
