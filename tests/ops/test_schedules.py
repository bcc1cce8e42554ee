import pytest
from hypothesis import given
from hypothesis import strategies as st

from udaseg.ops.schedules import poly, warmup


class TestPoly:
    def test_values(self):
        assert [poly(iteration, 4, 1.0) for iteration in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        assert poly(150_000, 250_000, 0.9) == pytest.approx(0.438, abs=5e-4)  # where AdaptSegNet stops

    @given(st.integers(0, 1000), st.integers(1, 500), st.floats(0.1, 3))
    def test_falls_from_one_to_zero(self, iteration, total, power):
        assert 0 <= poly(iteration + 1, total, power) <= poly(iteration, total, power) <= 1
        assert poly(0, total, power) == 1

    def test_no_length_is_refused(self):
        with pytest.raises(ZeroDivisionError):
            poly(0, 0, 0.9)


class TestWarmup:
    def test_values(self):
        assert [warmup(iteration, 4, start=0.2) for iteration in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])

    def test_no_warmup(self):
        assert warmup(0, 0) == 1

    @given(st.integers(0, 1000), st.integers(0, 500))
    def test_grows_to_one(self, iteration, length):
        assert 0 < warmup(iteration, length) <= warmup(iteration + 1, length) <= 1
        assert warmup(length, length) == 1
