import numpy as np
import pytest
import torch

from udaseg.ops.precision import rounded_sqrt


def test_it_runs_on_an_empty_tensor():
    assert rounded_sqrt(torch.zeros(0)).shape == (0,)


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match=r"torch\.int64"):
        rounded_sqrt(torch.arange(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_type_stay(dtype):
    found = rounded_sqrt(torch.ones(2, 3, dtype=dtype))
    assert found.shape == (2, 3) and found.dtype == dtype


NUMBERS = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 1000


def test_it_is_correctly_rounded_as_the_ieee_root_of_numpy_is():
    np.testing.assert_array_equal(rounded_sqrt(NUMBERS).numpy(), np.sqrt(NUMBERS.numpy()))
    assert rounded_sqrt(torch.zeros(1)).item() == 0


def test_gradient():
    assert torch.autograd.gradcheck(rounded_sqrt, NUMBERS[:5].double().requires_grad_())
