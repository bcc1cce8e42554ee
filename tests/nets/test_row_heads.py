import pytest
import torch
from torch.autograd import gradcheck

from udaseg.nets.row_heads import ClassSelectors, RowHeads, row_mlp


def rows(count=6, width=4, seed=0, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestMlp:
    def test_it_has_the_layers_of_the_release(self):
        mlp = row_mlp(8, 4, bias=True)
        assert mlp(rows(width=8)).shape == (6, 4)
        assert [type(layer).__name__ for layer in mlp] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert mlp[0].bias is None

    def test_one_row_is_refused_by_its_batch_norm(self):
        with pytest.raises(ValueError, match="more than 1 value"):
            row_mlp(4, 4, bias=True)(rows(1))


class TestSelectors:
    def test_values_are_those_of_a_network_for_each_class(self):
        selectors = ClassSelectors(3, 4)
        with torch.no_grad():
            selectors.scale.uniform_(0.5, 2)
            selectors.shift.uniform_(-1, 1)
        for index in range(3):
            one = torch.nn.Sequential(
                torch.nn.Linear(4, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.LeakyReLU(0.2),
                torch.nn.Linear(4, 1),
            )  # fmt: skip
            one[0].weight.data, one[1].weight.data = selectors.hidden[index], selectors.scale[index]
            one[1].bias.data, one[3].weight.data = selectors.shift[index], selectors.last[index]
            one[3].bias.data = selectors.bias[index]
            torch.testing.assert_close(selectors(rows(), index), one(rows())[:, 0])

    def test_a_class_has_gradients_for_its_own_part_only(self):
        selectors = ClassSelectors(3, 4)
        selectors(rows(), 1).square().sum().backward()
        for parameter in selectors.parameters():
            assert parameter.grad[1].any()
            assert not parameter.grad[[0, 2]].any()

    def test_gradient(self):
        selectors = ClassSelectors(2, 3).double()
        assert gradcheck(lambda x: selectors(x, 1), rows(5, 3, dtype=torch.float64).requires_grad_())

    def test_weights_start_as_those_of_linear_layers(self):
        selectors = ClassSelectors(5, 64)
        linear = torch.nn.Linear(64, 64)
        assert float(selectors.hidden.detach().std()) == pytest.approx(float(linear.weight.detach().std()), rel=0.05)
        assert float(selectors.hidden.detach().abs().max()) <= 1 / 8


class TestHeads:
    @pytest.mark.parametrize(
        ("selectors", "own", "memory"), [("paper", True, True), ("released", True, False), ("none", False, False)]
    )
    def test_there_are_as_many_selectors_as_are_used(self, selectors, own, memory):
        heads = RowHeads(8, 4, 3, selectors)
        assert (heads.selectors is not None, heads.memory_selectors is not None) == (own, memory)
        assert heads(rows(width=8)).shape == (6, 4)

    def test_every_parameter_of_projection_and_prediction_has_a_gradient(self):
        heads = RowHeads(8, 4, 3, "none").double()
        heads(rows(50, 8, dtype=torch.float64)).square().sum().backward()
        assert all(parameter.grad.abs().max() > 1e-6 for parameter in heads.parameters())

    def test_they_keep_no_statistics(self):
        assert not list(RowHeads(8, 4, 3, "paper").buffers())
