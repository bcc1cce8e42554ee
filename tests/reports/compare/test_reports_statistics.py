"""The report's test: against loops, against the tests that it is in its two limits, and what must not change it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from udaseg.engine.metrics import class_ious
from udaseg.reports.compare.statistics import DRAWS, Bootstrap, Draws, holm, mean_iou

IMAGES, CLASSES, MEMBERS = 12, 4, (0, 1, 3)
BOOTSTRAP = Bootstrap(IMAGES, seed=0, draws=400)


def invented(seed, images=IMAGES, classes=CLASSES, level=0.6):
    """Counts (N, C, 3) of one run: hits, truth, predicted; classes are absent from some images."""
    random = np.random.default_rng(seed)
    truth = random.integers(1, 500, (images, classes)) * (random.random((images, classes)) < 0.7)
    hits = (truth * random.uniform(level - 0.3, level + 0.3, (images, classes))).astype(np.int64)
    return np.stack([hits, truth, hits + random.integers(0, 90, (images, classes))], axis=2)


def run_of(seed, seeds=3, **options):
    return {number: invented(100 * seed + number, **options) for number in range(seeds)}


def row_of(scores, images=IMAGES):
    """A row whose seeds have these mIoUs on every draw of images."""
    return Draws("", dict(enumerate(scores)), {number: np.full(400, score) for number, score in enumerate(scores)})


def compared(own, other, bootstrap=BOOTSTRAP, members=MEMBERS):
    return bootstrap.compare(bootstrap.draw(own, members), bootstrap.draw(other, members))


def close(found, expected):
    """Whether two estimates are equal but for rounding."""
    numbers = ("value", "low", "high", "p", "detectable")
    np.testing.assert_allclose(
        [getattr(found, name) for name in numbers], [getattr(expected, name) for name in numbers], atol=1e-9
    )
    assert (found.seeds, found.images, found.reason) == (expected.seeds, expected.images, expected.reason)


class TestAgainstLoops:
    def naive(self, counts, times, members):
        """mIoU of one draw, pixel counts added up one by one."""
        ious = []
        for member in members:
            hits = truth = predicted = 0
            for image, often in enumerate(times):
                for _ in range(often):
                    hits += int(counts[image, member, 0])
                    truth += int(counts[image, member, 1])
                    predicted += int(counts[image, member, 2])
            if truth + predicted - hits:
                ious.append(hits / (truth + predicted - hits))
        return sum(ious) / len(ious) if ious else math.nan

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 1000))
    def test_every_draw_is_the_miou_of_its_images(self, seed):
        bootstrap = Bootstrap(IMAGES, seed=seed, draws=20)
        row = bootstrap.draw({7: invented(seed)}, MEMBERS)
        assert row.observed == {7: pytest.approx(self.naive(invented(seed), [1] * IMAGES, MEMBERS))}
        expected = [self.naive(invented(seed), times, MEMBERS) for times in bootstrap.times.tolist()]
        np.testing.assert_allclose(row.drawn[7], expected, rtol=1e-12)

    def test_the_whole_estimate(self):
        own, other = run_of(1), run_of(2, level=0.5)
        rows = [BOOTSTRAP.draw(run, MEMBERS) for run in (own, other)]
        by_seed = [100 * (rows[0].observed[seed] - rows[1].observed[seed]) for seed in range(3)]
        value = sum(by_seed) / 3
        spread = math.sqrt(sum((one - value) ** 2 for one in by_seed) / 2 / 3)
        values = []
        for draw, student in enumerate(BOOTSTRAP._student(2)):
            centre = sum(100 * (rows[0].drawn[seed][draw] - rows[1].drawn[seed][draw]) for seed in range(3)) / 3
            values += [centre + spread * student, centre - spread * student]
        low, below, above, high = np.quantile(values, [0.025, 0.2, 0.8, 0.975])
        wrong = sum(one <= 0 for one in values) / 2  # of 400 draws
        found = BOOTSTRAP.compare(*rows)
        assert (found.value, found.low, found.high) == pytest.approx((value, low, high))
        assert found.p == pytest.approx(min(1, 2 * (min(wrong, 400 - wrong) + 1) / 401))
        assert found.detectable == pytest.approx((high - low) / 2 + (above - below) / 2)
        assert (found.seeds, found.images, found.reason) == (3, IMAGES, "")

    def test_draws_of_images_are_with_replacement(self):
        times = Bootstrap(50, seed=3).times
        assert times.shape == (DRAWS, 50) and (times.sum(1) == 50).all()
        np.testing.assert_allclose(times.mean(0), 1, atol=0.05)
        np.testing.assert_allclose(times.var(0), 1 - 1 / 50, atol=0.1)

    def test_miou_is_that_of_the_confusion_matrix(self):
        confusion = np.random.default_rng(0).integers(0, 9, (5, 5))
        confusion[4] = confusion[:, 4] = 0
        counts = np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)], axis=1)
        assert mean_iou(counts) == pytest.approx(np.nanmean(class_ious(confusion)))


class TestLimits:
    @pytest.mark.parametrize("scores", [(0.41, 0.45, 0.44), (0.4, 0.47, 0.41, 0.42, 0.39)])
    def test_where_images_do_not_matter_it_is_the_paired_t_test(self, scores):
        bootstrap = Bootstrap(IMAGES, seed=0)
        rows = [row_of(scores), row_of([0.4] * len(scores))]
        flat = [replace(row, drawn={seed: np.full(DRAWS, s) for seed, s in row.observed.items()}) for row in rows]
        found = bootstrap.compare(*flat)
        expected = stats.ttest_1samp([100 * (score - 0.4) for score in scores], 0)
        interval = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
        assert found.p == pytest.approx(expected.pvalue, abs=3e-4)
        half = interval.high - found.value
        student = stats.t(len(scores) - 1)
        assert found.detectable == pytest.approx(half * (1 + student.ppf(0.8) / student.ppf(0.975)), abs=0.02)

    def test_where_seeds_do_not_matter_it_is_the_percentile_bootstrap(self):
        bootstrap = Bootstrap(30, seed=0)
        own, other = invented(1, images=30), invented(2, images=30)

        def difference(chosen, axis=-1):
            return 100 * (mean_iou(own[chosen].sum(-3)) - mean_iou(other[chosen].sum(-3)))

        expected = stats.bootstrap(
            (np.arange(30),), difference, method="percentile", n_resamples=DRAWS, rng=np.random.default_rng(1)
        ).confidence_interval
        found = compared(dict.fromkeys(range(3), own), dict.fromkeys(range(3), other), bootstrap, range(CLASSES))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.5)

    def test_three_seeds_of_equal_sign_are_not_enough_by_themselves(self):
        found = BOOTSTRAP.compare(row_of([0.41, 0.44, 0.49]), row_of([0.4, 0.4, 0.4]))
        assert found.low < 0 < found.value and found.p > 0.05  # drawn with replacement they would all be above 0

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])  # of the variance that comes from seeds
    def test_it_covers_what_it_says(self, share):
        """A mean that is known, of three seeds and a normal sample of images that stands for their draws."""
        random = np.random.default_rng(4)
        bootstrap = Bootstrap(2, seed=0, draws=400)
        by_images = np.sqrt(1 - share) * stats.norm.ppf((np.arange(400) + 0.5) / 400)
        wrong, replications = 0, 500
        for _ in range(replications):
            # Differences of seeds from 0, the truth, and what the images that there happen to be add to all of them.
            scores = np.sqrt(3 * share) * random.standard_normal(3) + np.sqrt(1 - share) * random.standard_normal()
            row = Draws("", dict(enumerate(scores)), {seed: score + by_images for seed, score in enumerate(scores)})
            zero = Draws("", dict.fromkeys(range(3), 0.0), dict.fromkeys(range(3), np.zeros(400)))
            found = bootstrap.compare(row, zero)
            wrong += not found.low <= 0 <= found.high
        assert wrong / replications < 0.05 + 3 * math.sqrt(0.05 * 0.95 / replications)


class TestInvariants:
    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 1000))
    def test_identical_rows_do_not_differ(self, seed):
        found = compared(run_of(seed), run_of(seed))
        assert (found.value, found.low, found.high, found.p, found.detectable) == (0, 0, 0, 1, 0)

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 1000))
    def test_the_order_of_rows_is_the_sign(self, seed):
        one, other = run_of(seed), run_of(seed + 1)
        found, turned = compared(one, other), compared(other, one)
        close(turned, replace(found, value=-found.value, low=-found.high, high=-found.low))

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 1000), st.permutations(range(3)))
    def test_seeds_may_have_any_names(self, seed, names):
        one, other = run_of(seed), run_of(seed + 1)
        renamed = [{names[number]: counts for number, counts in run.items()} for run in (one, other)]
        close(compared(*renamed), compared(one, other))

    def test_images_may_have_any_order_but_for_the_draws(self):
        bootstrap = Bootstrap(IMAGES, seed=0)
        order = np.random.default_rng(0).permutation(IMAGES)
        one, other = run_of(1), run_of(2)
        moved = [{seed: counts[order] for seed, counts in run.items()} for run in (one, other)]
        found, expected = compared(*moved, bootstrap), compared(one, other, bootstrap)
        assert found.value == pytest.approx(expected.value)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.5)
        drawn = Bootstrap(IMAGES, seed=0)
        drawn.times = drawn.times[:, order]  # the same images by their new places
        close(compared(*moved, drawn), expected)

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 1000))
    def test_a_class_that_is_nowhere_changes_nothing(self, seed):
        one, other = run_of(seed), run_of(seed + 1)
        more = [
            {number: np.concatenate([counts, np.zeros((IMAGES, 1, 3), int)], 1) for number, counts in run.items()}
            for run in (one, other)
        ]
        assert compared(*more, members=(*MEMBERS, CLASSES)) == compared(one, other)

    def test_classes_outside_the_set_do_not_count(self):
        one, other = run_of(1), run_of(2)
        changed = {seed: array.copy() for seed, array in one.items()}
        for array in changed.values():
            array[:, 2] = 1
        assert compared(changed, other) == compared(one, other)

    def test_equal_input_gives_equal_bytes_and_another_seed_other_draws(self):
        again = compared(run_of(1), run_of(2), Bootstrap(IMAGES, seed=0, draws=400))
        assert again == compared(run_of(1), run_of(2))
        other = compared(run_of(1), run_of(2), Bootstrap(IMAGES, seed=1, draws=400))
        assert other.value == again.value and other.low != again.low

    def test_both_rows_see_the_same_images_in_a_draw(self):
        """Images that are hard for both say nothing about their difference."""
        counts = run_of(1)
        worse = {seed: array.copy() for seed, array in counts.items()}
        for array in worse.values():
            array[..., 2] += array[..., 1] - array[..., 0]  # as many more false pixels everywhere
        paired = compared(counts, worse)
        own, other = (BOOTSTRAP.draw(run, MEMBERS) for run in (counts, worse))
        apart = replace(other, drawn={seed: drawn[::-1] for seed, drawn in other.drawn.items()})
        unpaired = BOOTSTRAP.compare(own, apart)
        assert paired.high - paired.low < unpaired.high - unpaired.low


class TestWithoutInterval:
    @pytest.mark.parametrize("seeds", [0, 1, 2])
    def test_fewer_than_three_seeds(self, seeds):
        found = compared(run_of(1, seeds=seeds), run_of(2))
        assert found.reason == f"An interval needs at least 3 seeds, not {seeds}." and found.seeds == seeds
        assert all(math.isnan(number) for number in (found.low, found.high, found.p, found.detectable))
        assert math.isnan(found.value) == (seeds == 0)

    def test_only_seeds_that_both_have_are_compared(self):
        one, other = run_of(1, seeds=4), run_of(2, seeds=4)
        few = {seed: other[seed] for seed in (3, 1, 2)}
        found = compared(one, few)
        assert found.seeds == 3 and found == compared({seed: one[seed] for seed in few}, few)

    def test_a_set_that_some_draws_do_not_show(self):
        counts = run_of(1)
        for array in counts.values():
            array[1:, 0] = 0
        found = compared(counts, counts, members=[0])
        assert found.value == 0 and math.isnan(found.low)
        assert found.reason.endswith("of 400 draws of images no class of the set is left.")

    def test_a_seed_that_shows_no_class_of_the_set_is_left_out(self):
        counts = run_of(1)
        counts[1][:, 0] = 0
        assert sorted(BOOTSTRAP.draw(counts, [0]).observed) == [0, 2]

    def test_what_is_not_measured_alike_is_not_compared(self):
        own, other = BOOTSTRAP.draw(run_of(1), MEMBERS, "mIoU"), BOOTSTRAP.draw(run_of(2), MEMBERS, "mIoU_aggregated")
        found = BOOTSTRAP.compare(own, other)
        assert found.seeds == 0 and math.isnan(found.value) and found.reason == "The two are not measured alike."

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match="needs at least 2 of them, not 1"):
            Bootstrap(1, seed=0)
        for wrong in (invented(0, images=3), invented(0)[..., :2], invented(0)[0]):
            with pytest.raises(ValueError, match=r"counts of seed 5: expected \(12, C, 3\), found"):
                BOOTSTRAP.draw({5: wrong}, MEMBERS)


class TestMean:
    def test_a_row_has_an_interval_and_no_test(self):
        row = BOOTSTRAP.draw(run_of(1), MEMBERS)
        found = BOOTSTRAP.mean(row)
        assert found.low < found.value < found.high and found.value == pytest.approx(100 * row.mean)
        assert math.isnan(found.p) and math.isnan(found.detectable)

    def test_of_a_row_without_a_result(self):
        row = BOOTSTRAP.draw({}, MEMBERS)
        assert math.isnan(row.mean) and math.isnan(BOOTSTRAP.mean(row).value)


class TestHolm:
    def test_by_hand(self):
        # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, and never falls.
        assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])

    def test_no_more_than_one_and_what_was_not_tested(self):
        assert holm([0.6, math.nan, 0.9]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
        assert holm([math.nan, 0.05]) == pytest.approx([math.nan, 0.05], nan_ok=True)
        assert holm([]) == []

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_rejects_as_the_step_down_procedure_does(self, ps):
        order, rejected = np.argsort(ps, kind="stable"), set()
        for rank, index in enumerate(order):
            if (len(ps) - rank) * ps[index] >= 0.05:
                break
            rejected.add(int(index))
        assert {index for index, p in enumerate(holm(ps)) if p < 0.05} == rejected


class TestBest:
    clear, good, poor = row_of([0.70, 0.701, 0.702]), row_of([0.60, 0.602, 0.601]), row_of([0.40, 0.401, 0.40])

    def test_one_that_is_better_than_every_other(self):
        assert BOOTSTRAP.best({"poor": self.poor, "clear": self.clear, "good": self.good}) == "clear"

    def test_none_where_the_runner_up_may_be_as_good(self):
        near = row_of([0.69, 0.706, 0.70])
        assert BOOTSTRAP.best({"clear": self.clear, "near": near, "poor": self.poor}) is None
        assert BOOTSTRAP.best({"clear": self.clear, "again": self.clear}) is None

    def test_none_where_one_that_has_a_result_cannot_be_tested(self):
        assert BOOTSTRAP.best({"clear": self.clear, "few": row_of([0.1, 0.2])}) is None
        assert BOOTSTRAP.best({"few": row_of([0.9]), "clear": self.clear, "poor": self.poor}) is None
        assert BOOTSTRAP.best({"clear": self.clear, "other": replace(self.poor, measured="other")}) is None

    def test_rows_without_a_result_are_passed_over(self):
        assert BOOTSTRAP.best({"clear": self.clear, "poor": self.poor, "missing": row_of([])}) == "clear"
        assert BOOTSTRAP.best({"clear": self.clear, "missing": row_of([])}) is None
        assert BOOTSTRAP.best({}) is None

    def test_more_rows_ask_for_more(self):
        """A difference that one test supports, and ten at once do not."""
        other = row_of([0.62, 0.64, 0.66])
        rows = {"clear": row_of([0.7, 0.7, 0.7]), "other": other}
        assert BOOTSTRAP.compare(rows["clear"], other).p < 0.05 and BOOTSTRAP.best(rows) == "clear"
        assert BOOTSTRAP.best(rows | {f"other {index}": other for index in range(9)}) is None
