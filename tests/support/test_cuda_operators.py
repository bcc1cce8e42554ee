"""The table of what CUDA cannot do deterministically is that of the installed PyTorch, and what is in it is seen."""

import pytest
import torch
from support import cuda_operators
from support.cuda_operators import BESIDES, RAISING, as_on_cuda
from torch.nn import functional

MAP = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROW = torch.arange(4.0)


def gradient(function, *arguments):
    """Forward and backward pass of a function of a map."""
    function(MAP.clone().requires_grad_(), *arguments).sum().backward()


def test_the_table_is_that_of_the_documentation():
    assert cuda_operators.documented() == set(RAISING)


def test_its_operators_exist():
    assert not [name for name in cuda_operators.REFUSED if not hasattr(torch.ops.aten, name)]
    assert not set(BESIDES) & {name for names in RAISING.values() for name in names}


@pytest.mark.parametrize(
    ("operator", "use"),
    [
        ("nll_loss2d_forward", lambda: gradient(functional.cross_entropy, torch.zeros(1, 8, 8, dtype=torch.long))),
        ("_adaptive_avg_pool2d_backward", lambda: gradient(functional.adaptive_avg_pool2d, 3)),
        ("reflection_pad2d_backward", lambda: gradient(lambda maps: functional.pad(maps, (1,) * 4, mode="reflect"))),
        ("grid_sampler_2d_backward", lambda: gradient(
            lambda maps: functional.grid_sample(maps, torch.zeros(1, 2, 2, 2), align_corners=False))),
        ("_upsample_bilinear2d_aa_backward", lambda: gradient(
            lambda maps: functional.interpolate(maps, (5, 5), mode="bilinear", antialias=True))),
        ("bincount", lambda: torch.zeros(4, dtype=torch.long).bincount(ROW)),
        ("histc", lambda: ROW.histc(2)),
        ("median", lambda: ROW.median(dim=0)),
        ("put_", lambda: torch.zeros(4).put_(torch.tensor([1]), torch.ones(1), accumulate=True)),
        ("cumsum", lambda: ROW.cumsum(0)),
        ("sort", lambda: ROW.sort()),
        ("sort", lambda: ROW.argsort()),
        ("topk", lambda: ROW.topk(2)),
    ],
)  # fmt: skip
def test_what_is_in_it_is_seen(operator, use):
    with as_on_cuda() as found:
        use()
    assert operator in [objection.split(" (")[0] for objection in found.objections]


@pytest.mark.parametrize(
    "use",
    [
        lambda: gradient(lambda maps: functional.interpolate(maps, (5, 5), mode="bilinear", align_corners=True)),
        lambda: gradient(lambda maps: functional.pad(maps, (1,) * 4, mode="replicate")),
        lambda: ROW.sort(stable=True),
        lambda: ROW.argsort(stable=True, descending=True),
        lambda: ROW.long().cumsum(0),
        lambda: ROW.long().bincount(),
        lambda: ROW.median(),
    ],
)
def test_what_has_a_deterministic_form_passes(use):
    with as_on_cuda() as found:
        use()
    assert found.seen and not found.objections
