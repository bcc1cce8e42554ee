import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udaseg.ops.schedules import cosine_keep, ema_keep, poly, portions, ramp_up, round_rates, warmup


class TestPoly:
    def test_values(self):
        assert [poly(iteration, 4, 1.0) for iteration in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        assert poly(150_000, 250_000, 0.9) == pytest.approx(0.438, abs=5e-4)  # where AdaptSegNet stops

    @settings(deadline=None)
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

    @settings(deadline=None)
    @given(st.integers(0, 1000), st.integers(0, 500))
    def test_grows_to_one(self, iteration, length):
        assert 0 < warmup(iteration, length) <= warmup(iteration + 1, length) <= 1
        assert warmup(length, length) == 1


class TestEmaKeep:
    def test_values(self):
        assert [ema_keep(iteration, 0.9) for iteration in (0, 1, 3, 9, 100)] == [0.0, 0.5, 0.75, 0.9, 0.9]

    @settings(deadline=None)
    @given(st.integers(0, 10**6), st.floats(0, 1))
    def test_grows_to_its_limit(self, iteration, most):
        assert 0 <= ema_keep(iteration, most) <= ema_keep(iteration + 1, most) <= most

    @settings(deadline=None)
    @given(st.integers(1, 50))
    def test_without_limit_it_averages_all_values(self, count):
        average = 0.0
        for iteration in range(count):
            keep = ema_keep(iteration, 1.0)
            average = keep * average + (1 - keep) * iteration
        assert average == pytest.approx((count - 1) / 2)


class TestPortions:
    def test_values(self):
        assert portions(4, 0.2, 0.1, 0.35, "paper") == pytest.approx([0.2, 0.3, 0.35, 0.35])
        assert portions(4, 0.2, 0.1, 0.35, "released") == pytest.approx([0.2, 0.3, 0.4, 0.4])

    def test_rounding_takes_the_release_a_whole_step_too_far(self):
        assert portions(9, 0.2, 0.05, 0.5, "released")[-2:] == pytest.approx([0.55, 0.55])
        assert portions(9, 0.2, 0.05, 0.5, "paper")[-2:] == [0.5, 0.5]

    @pytest.mark.parametrize("rule", ["paper", "released"])
    @settings(deadline=None)
    @given(st.integers(0, 12), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.5, 1))
    def test_grow_step_by_step_and_never_more_than_a_step_too_far(self, rule, rounds, start, step, most):
        found = portions(rounds, start, step, most, rule)
        assert len(found) == rounds
        assert all(start <= portion <= (most if rule == "paper" else most + step) for portion in found)
        assert all(0 <= after - before <= step + 1e-12 for before, after in pairwise(found))

    @pytest.mark.parametrize("rule", ["paper", "released"])
    def test_beyond_the_most_from_the_start(self, rule):
        assert portions(2, 0.5, 0.1, 0.3, rule) == [0.5, 0.3 if rule == "paper" else 0.5]


class TestRoundRates:
    def test_values(self):
        assert round_rates(3, 1e-4, 2**-0.5) == pytest.approx([1e-4, 1e-4 / 2**0.5, 5e-5], rel=1e-12)
        assert round_rates(3, 5e-5, 1.0) == [5e-5] * 3
        assert round_rates(0, 1.0, 0.5) == []


class TestSchedules:
    def test_the_ramp_is_that_of_the_release(self):
        assert ramp_up(0, 2000) == pytest.approx(math.exp(-5))
        assert ramp_up(1000, 2000) == pytest.approx(math.exp(-1.25))
        assert [ramp_up(index, 2000) for index in (2000, 2001)] == [1.0, 1.0]
        assert ramp_up(0, 0) == 1.0

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 3000))
    def test_the_ramp_never_falls(self, iteration):
        assert 0 < ramp_up(iteration, 2000) <= ramp_up(iteration + 1, 2000) <= 1

    def test_the_share_that_is_kept_grows_from_least_to_one(self):
        assert cosine_keep(0, 0.995) == pytest.approx(0.995)
        assert cosine_keep(0.5, 0.995) == pytest.approx(0.9975)
        assert cosine_keep(1, 0.995) == 1
