import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from udaseg.ops.sampling import rare_class_probabilities

COUNTS = st.lists(st.lists(st.integers(0, 10**9), min_size=4, max_size=4), min_size=1, max_size=5)


class TestRareClassProbabilities:
    @given(COUNTS, st.sampled_from([0.1, 1.0, 100.0]))
    def test_value_is_that_of_a_naive_loop(self, counts, temperature):
        totals = [sum(row[index] for row in counts) for index in range(4)]
        raised = [math.exp((1 - n / sum(totals)) / temperature) if n else 0.0 for n in totals]
        found = rare_class_probabilities(torch.tensor(counts), temperature)
        assert found.shape == (4,) and found.dtype == torch.float32
        expected = [value / sum(raised) for value in raised] if any(totals) else [0.0] * 4
        assert found.tolist() == pytest.approx(expected, rel=2e-5, abs=1e-7)

    def test_the_rarer_the_likelier_and_absent_never(self):
        common, rare, absent, middle = rare_class_probabilities(torch.tensor([[900, 1, 0, 90]]), 0.01).tolist()
        assert rare > middle > common and absent == 0

    def test_a_high_temperature_makes_all_alike(self):
        found = rare_class_probabilities(torch.tensor([[900, 1, 90]]), 1e6)
        assert found.tolist() == pytest.approx([1 / 3] * 3, rel=1e-4)

    def test_files_are_summed(self):
        counts = torch.tensor([[5, 1, 0], [2, 3, 4]])
        assert torch.equal(
            rare_class_probabilities(counts, 0.1), rare_class_probabilities(counts.sum(0, keepdim=True), 0.1)
        )

    def test_more_pixels_than_float32_can_count(self):
        found = rare_class_probabilities(torch.tensor([[2**40, 2**40, 0]]), 0.01)
        assert found.tolist() == [0.5, 0.5, 0.0]

    def test_no_pixel_at_all_is_no_nan(self):
        assert rare_class_probabilities(torch.zeros(2, 3, dtype=torch.int64), 0.01).tolist() == [0.0] * 3

    @pytest.mark.parametrize(
        ("counts", "temperature"), [(torch.ones(3).long(), 0.1), (torch.ones(2, 3), 0.1), (torch.ones(2, 3).long(), 0)]
    )
    def test_other_arguments_are_refused(self, counts, temperature):
        with pytest.raises(ValueError, match="expected"):
            rare_class_probabilities(counts, temperature)
