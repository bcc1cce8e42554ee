"""Cycle association against loops over single positions, and by parts against whole matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.association import (
    CHUNK,
    association_loss,
    by_rows,
    contrast_scores,
    cycle,
    cycle_consistent,
    cycle_scores,
    inside,
    masks_of,
    positions,
    similarity,
)

NAMES = ["cosine", "divergence"]


METRICS = pytest.mark.parametrize("metric", NAMES)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def maps(metric, *shape, seed=0, dtype=torch.float64):
    """Features, or probabilities, (B, D, h, w)."""
    found = random(*shape, seed=seed, dtype=dtype)
    return found if metric == "cosine" else (2 * found).softmax(dim=1)


def naive_similarity(metric, first, second):
    """Of two vectors, lists of numbers."""
    if metric == "cosine":
        return sum(a * b for a, b in zip(first, second, strict=True)) / (math.hypot(*first) * math.hypot(*second))
    pairs = zip(first, second, strict=True)
    return -sum(a * (math.log(a + 1e-10) - math.log(b + 1e-10)) for a, b in pairs)


class TestSimilarity:
    @METRICS
    def test_values_are_those_of_a_naive_loop(self, metric):
        first, second = (maps(metric, 2, 4, 3, seed=seed).mT for seed in (0, 1))  # (B, L, D)
        found = similarity(positions(first, metric).queries, positions(second, metric).keys)
        assert found.shape == (2, 3, 3)
        for image in range(2):
            expected = [[naive_similarity(metric, a, b) for b in second[image].tolist()] for a in first[image].tolist()]
            torch.testing.assert_close(found[image], torch.tensor(expected, dtype=torch.float64))

    @METRICS
    def test_gradient(self, metric):
        first, second = (maps(metric, 1, 3, 4, seed=seed)[0].T.contiguous().requires_grad_() for seed in (0, 1))
        assert gradcheck(
            lambda a, b: similarity(positions(a, metric).queries, positions(b, metric).keys), (first, second)
        )

    def test_the_divergence_is_not_symmetric_and_zero_to_itself(self):
        probs = maps("divergence", 1, 4, 6)[0].T
        ready = positions(probs, "divergence")
        found = similarity(ready.queries, ready.keys)
        assert not torch.allclose(found, found.T)
        assert found.diagonal().abs().max() < 1e-12
        assert found.max() < 1e-12

    def test_a_zero_vector_has_similarity_zero_and_no_gradient(self):
        vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        ready = positions(vectors, "cosine")
        found = similarity(ready.queries, ready.keys)
        found.sum().backward()
        torch.testing.assert_close(found.detach(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        assert vectors.grad[0].tolist() == [0, 0]
        assert vectors.grad.isfinite().all()

    def test_certain_predictions_are_finite(self):
        probs = torch.eye(3).requires_grad_()
        ready = positions(probs, "divergence")
        found = similarity(ready.queries, ready.keys)
        found.sum().backward()
        assert found.isfinite().all() and probs.grad.isfinite().all()

    def test_autocast_costs_no_digits(self):
        vectors = random(5, 16, dtype=torch.float32)
        exact = similarity(*positions(vectors, "cosine"))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(similarity(*positions(vectors, "cosine")), exact)
        assert positions(vectors.bfloat16(), "cosine").keys.dtype == torch.float32

    def test_another_metric_is_refused(self):
        with pytest.raises(ValueError, match="expected"):
            positions(torch.ones(2, 2), "euclidean")


def naive_row(row, normalise):
    if len(row) == 1:
        return [1.0]
    if normalise:
        mean = sum(row) / len(row)
        std = math.sqrt(sum((one - mean) ** 2 for one in row) / (len(row) - 1))
        row = [(one - mean) / (std + 1e-10) for one in row]
    whole = sum(math.exp(one) for one in row)
    return [math.exp(one) / whole for one in row]


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


class TestContrastScores:
    @pytest.mark.parametrize("normalise", [True, False])
    @pytest.mark.parametrize("width", [1, 2, 7])
    def test_values_are_those_of_a_naive_loop(self, normalise, width):
        rows = random(2, 3, width)
        found = contrast_scores(rows, normalise)
        assert found.shape == rows.shape
        for image, row in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
            assert found[image, row].tolist() == pytest.approx(naive_row(rows[image, row].tolist(), normalise))

    def test_mean_and_deviation_have_no_gradient(self):
        rows = random(3, 5).requires_grad_()
        weight = random(3, 5, seed=1)
        (found,) = gradients((contrast_scores(rows) * weight).sum(), rows)
        constant = rows.detach()
        mean, std = constant.mean(1, keepdim=True), constant.std(1, keepdim=True) + 1e-10
        (expected,) = gradients((((rows - mean) / std).softmax(1) * weight).sum(), rows)
        torch.testing.assert_close(found, expected)

    def test_gradient_without_normalisation(self):
        assert gradcheck(lambda rows: contrast_scores(rows, normalise=False), random(2, 5).requires_grad_())

    @pytest.mark.parametrize("value", [0.0, 0.3, -1e4])
    def test_constant_rows_are_uniform(self, value):
        found = contrast_scores(torch.full((2, 6), value))
        torch.testing.assert_close(found, torch.full((2, 6), 1 / 6))

    def test_rows_of_one_position_are_one_and_warn_not(self, recwarn):
        rows = torch.tensor([[0.2], [-5.0]], requires_grad=True)
        found = contrast_scores(rows)
        found.sum().backward()
        assert found.flatten().tolist() == [1, 1]
        assert not rows.grad.any()
        assert not recwarn.list

    @settings(deadline=None)
    @given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 1000))
    def test_is_monotone_in_its_row(self, height, width, seed):
        rows = random(height, width, seed=seed)
        assert torch.equal(contrast_scores(rows).argmax(1), rows.argmax(1))
        assert torch.equal(contrast_scores(rows).argsort(1), rows.argsort(1))
        torch.testing.assert_close(contrast_scores(rows).sum(1), torch.ones(height, dtype=torch.float64))

    @settings(deadline=None)
    @given(st.floats(0.01, 100), st.floats(-100, 100))
    def test_scale_and_shift_of_a_row_do_not_matter(self, scale, shift):
        rows = random(3, 9)
        torch.testing.assert_close(contrast_scores(scale * rows + shift), contrast_scores(rows))


class TestByRows:
    @pytest.mark.parametrize("rows", [1, 2, 3, 7, 100, None])
    def test_is_the_function_with_its_gradient(self, rows):
        first, second = (random(7, 3, seed=seed).requires_grad_() for seed in (0, 1))
        shared = random(3, 4, seed=2).requires_grad_()

        def product(one, other):
            return (one * other) @ shared

        found, expected = by_rows(product, [first, second], 4, rows), product(first, second)
        torch.testing.assert_close(found, expected)
        leaves = (first, second, shared)
        torch.testing.assert_close(
            gradients(found.square().sum(), *leaves), gradients(expected.square().sum(), *leaves)
        )

    @pytest.mark.parametrize(("width", "expected"), [(CHUNK, 1), (CHUNK // 3, 3), (5 * CHUNK, 1)])
    def test_by_itself_it_takes_as_many_rows_as_fit(self, width, expected):
        seen = []
        by_rows(lambda part: seen.append(len(part)) or part, [torch.zeros(7, 1)], width, None)
        assert max(seen) == expected and sum(seen) == 7

    def test_what_is_inside_is_not_kept(self):
        kept = []
        vectors = torch.ones(8, 4, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
            by_rows(lambda part: (part @ torch.ones(4, 1000)).exp().sum(1), [vectors], 1000, 2)
        assert sum(kept) < 1000


class TestCycle:
    def walk(self, here, there, rows=None):
        return cycle(positions(here, "cosine"), positions(there, "cosine"), rows)

    def test_there_and_back(self):
        angles = {"source": [0.0, 0.3, 1.5], "target": [0.1, 1.4, 3.0]}
        here, there = (torch.tensor([[math.cos(a), math.sin(a)] for a in one]) for one in angles.values())
        found = self.walk(here, there)
        assert found.middle.tolist() == [0, 0, 1]
        assert found.end.tolist() == [0, 0, 2]
        assert found.back[2] == 0  # no walk passes

    def test_among_equals_it_is_the_first(self):
        found = self.walk(torch.ones(3, 2), torch.ones(4, 2))
        assert found.middle.tolist() == [0, 0, 0]
        assert found.end.tolist() == [0, 0, 0]

    @settings(deadline=None)
    @given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 100))
    def test_chunks_do_not_matter(self, here, there, rows, seed):
        pair = random(here, 5, seed=seed), random(there, 5, seed=seed + 1)
        found, whole = self.walk(*pair, rows), self.walk(*pair)
        assert torch.equal(found.middle, whole.middle) and torch.equal(found.back, whole.back)

    @METRICS
    def test_of_an_image_with_itself_stays(self, metric):
        ready = positions(maps(metric, 1, 5, 30)[0].T, metric)
        found = cycle(ready, ready)
        assert found.middle.tolist() == found.end.tolist() == list(range(30))

    def test_needs_no_graph(self):
        vectors = random(4, 3).requires_grad_()
        assert not self.walk(vectors, vectors).middle.requires_grad

    @pytest.mark.parametrize("normalise", [True, False])
    def test_scores_are_products_of_both_links(self, normalise):
        here, there = (positions(random(9, 4, seed=seed), "cosine") for seed in (0, 1))
        walks = cycle(here, there)
        starts = torch.tensor([7, 0, 3])
        forth = contrast_scores(similarity(here.queries, there.keys), normalise)
        back = contrast_scores(similarity(there.queries, here.keys), normalise)
        expected = forth[starts, walks.middle[starts]] * back[walks.middle[starts], walks.end[starts]]
        for rows in (1, 2, None):
            torch.testing.assert_close(cycle_scores(here, there, walks, starts, normalise, rows), expected)

    @settings(deadline=None)
    @given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 100))
    def test_scores_are_at_least_chance(self, here, there, normalise, seed):
        pair = [positions(random(count, 3, seed=seed + count), "cosine") for count in (here, there)]
        scores = cycle_scores(*pair, cycle(*pair), torch.arange(here), normalise)
        assert scores.min() >= (1 - 1e-9) / (here * there) and scores.max() <= 1

    def test_consistent_is_what_ends_at_its_own_label(self):
        labels = torch.tensor([[1, 1, 2, 255, 255], [0, 0, 0, 0, 0]])
        end = torch.tensor([[1, 2, 2, 4, 0], [4, 4, 4, 4, 4]])
        assert cycle_consistent(end, labels).tolist() == [[True, False, True, False, False], [True] * 5]


def labels_of(*shape, classes=3, seed=0, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


def naive_loss(metric, source, target, labels, normalise, valid=None):
    """Loss and consistent positions, pair by pair and position by position."""
    logs, starts = [], []
    for image in range(len(source)):
        here = source[image].flatten(1).T.tolist()
        there = target[image].flatten(1).T.tolist()
        if valid is not None:
            there = [one for one, seen in zip(there, valid[image].flatten().tolist(), strict=True) if seen]
        label = labels[image].flatten().tolist()
        forth = [naive_row([naive_similarity(metric, a, b) for b in there], normalise) for a in here]
        back = [naive_row([naive_similarity(metric, b, a) for a in here], normalise) for b in there]
        for start, row in enumerate(forth if there else []):
            middle = row.index(max(row))
            end = back[middle].index(max(back[middle]))
            if label[start] != 255 and label[start] == label[end]:
                logs.append(-math.log(row[middle] * back[middle][end]))
                starts.append((image, start))
    return sum(logs) / max(1, len(logs)), starts


def plain_loss(metric, source, target, labels, normalise=True):
    """With whole matrices, all of them in the graph."""
    logs = []
    for image in range(len(source)):
        pair = [positions(one[image].flatten(1).mT, metric) for one in (source, target)]
        forth = contrast_scores(pair[0].queries @ pair[1].keys.mT, normalise)
        back = contrast_scores(pair[1].queries @ pair[0].keys.mT, normalise)
        middle = forth.argmax(dim=1)
        end = back.argmax(dim=1)[middle]
        label = labels[image].flatten()
        starts = ((label != 255) & (label == label[end])).nonzero()[:, 0]
        logs.append(-(forth[starts, middle[starts]] * back[middle[starts], end[starts]]).log())
    return torch.cat(logs).mean()


class TestAssociationLoss:
    @METRICS
    @pytest.mark.parametrize("normalise", [True, False])
    @pytest.mark.parametrize("masked", [True, False])
    def test_values_are_those_of_a_naive_loop(self, metric, normalise, masked):
        source, target = maps(metric, 2, 4, 3, 4), maps(metric, 2, 4, 4, 2, seed=1)
        labels = labels_of(2, 3, 4)
        valid = random(2, 4, 2, seed=2) > -0.5 if masked else None
        found = association_loss(source, target, labels, metric, normalise, valid)
        loss, starts = naive_loss(metric, source, target, labels, normalise, valid)
        assert starts and float(found.loss) == pytest.approx(loss)
        assert found.positives.shape == labels.shape
        assert found.positives.flatten(1).nonzero().tolist() == [list(place) for place in starts]

    @METRICS
    @pytest.mark.parametrize("rows", [1, 5, None])
    def test_it_and_its_gradient_are_those_of_whole_matrices(self, metric, rows):
        source, target = (maps(metric, 2, 6, 5, 4, seed=seed).requires_grad_() for seed in (0, 1))
        labels = labels_of(2, 5, 4)
        found = association_loss(source, target, labels, metric, rows=rows).loss
        expected = plain_loss(metric, source, target, labels)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, source, target), gradients(expected, source, target))

    @settings(deadline=None)
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.sampled_from(NAMES), st.integers(0, 50))
    def test_chunks_do_not_matter(self, height, width, rows, metric, seed):
        source = maps(metric, 2, 4, height, width, seed=seed).requires_grad_()
        target = maps(metric, 2, 4, width, height + 1, seed=seed + 1).requires_grad_()
        labels = labels_of(2, height, width, classes=2, seed=seed)
        found = association_loss(source, target, labels, metric, rows=rows)
        whole = association_loss(source, target, labels, metric)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(gradients(found.loss, source, target), gradients(whole.loss, source, target))

    @METRICS
    def test_gradient(self, metric):
        # Without normalisation: with it, mean and deviation are no part of the gradient.
        source, target = (maps(metric, 1, 3, 2, 3, seed=seed).requires_grad_() for seed in (0, 1))
        labels = torch.tensor([[[0, 0, 1], [1, 1, 0]]])
        assert association_loss(source, target, labels, metric, normalise=False).positives.any()
        assert gradcheck(
            lambda a, b: association_loss(a, b, labels, metric, normalise=False, rows=2).loss, (source, target)
        )

    @METRICS
    def test_of_an_image_with_itself_every_labelled_position_is_consistent(self, metric):
        image, labels = maps(metric, 2, 8, 5, 6), labels_of(2, 5, 6, classes=4)
        assert torch.equal(association_loss(image, image, labels, metric).positives, labels != 255)

    @METRICS
    @pytest.mark.parametrize("which", ["no label", "no consistent walk", "no valid position"])
    def test_without_a_pair_it_is_zero_in_the_graph(self, metric, which):
        if which == "no consistent walk":  # both walks end at the second position
            source = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).T[None, :, None].clone()
            target = torch.tensor([[0.91, 0.09]]).T[None, :, None].clone()
            labels = torch.tensor([[[0, 255]]])
        else:
            source, target = (maps(metric, 1, 2, 1, 2, seed=seed, dtype=torch.float32) for seed in (0, 1))
            labels = torch.tensor([[[0, 0]]]) if which == "no valid position" else torch.full((1, 1, 2), 255)
        valid = torch.zeros(1, *target.shape[2:], dtype=torch.bool) if which == "no valid position" else None
        source, target = source.requires_grad_(), target.requires_grad_()
        found = association_loss(source, target, labels, metric, valid=valid)
        found.loss.backward()
        assert found.loss == 0 and not found.positives.any()
        assert not source.grad.any() and not target.grad.any()

    @METRICS
    def test_an_image_without_a_pair_does_not_count(self, metric):
        source, target = maps(metric, 2, 4, 3, 3), maps(metric, 2, 4, 3, 3, seed=1)
        labels = labels_of(2, 3, 3)
        labels[1] = 255
        both = association_loss(source, target, labels, metric).loss
        torch.testing.assert_close(both, association_loss(source[:1], target[:1], labels[:1], metric).loss)

    @METRICS
    def test_the_mean_is_over_all_consistent_walks_of_the_batch(self, metric):
        source, target = maps(metric, 2, 4, 3, 3), maps(metric, 2, 4, 3, 3, seed=1)
        labels = torch.zeros(2, 3, 3, dtype=torch.int64)
        labels[0, 1:] = 1
        alone = [association_loss(source[i : i + 1], target[i : i + 1], labels[i : i + 1], metric) for i in range(2)]
        counts = [one.positives.sum() for one in alone]
        assert counts[0] != counts[1] and all(counts)
        expected = sum(one.loss * count for one, count in zip(alone, counts, strict=True)) / sum(counts)
        torch.testing.assert_close(association_loss(source, target, labels, metric).loss, expected)

    @METRICS
    def test_one_target_position_gives_the_way_there_for_nothing(self, metric):
        source, target = maps(metric, 1, 4, 3, 3), maps(metric, 1, 4, 1, 1, seed=1)
        labels = torch.zeros(1, 3, 3, dtype=torch.int64)
        ready = [positions(inside(one[0]), metric) for one in (target, source)]
        way_back = contrast_scores(similarity(ready[0].queries, ready[1].keys)).max()
        found = association_loss(source, target, labels, metric)
        assert found.positives.all()
        torch.testing.assert_close(found.loss, -way_back.log())

    def test_one_position_each_is_zero(self):
        found = association_loss(random(1, 3, 1, 1), random(1, 3, 1, 1, seed=1), torch.zeros(1, 1, 1).long(), "cosine")
        assert found.loss == 0 and found.positives.all()

    def test_alike_everywhere_it_is_twice_the_logarithm_of_the_positions(self):
        alike = torch.full((1, 4, 3, 5), 0.25).requires_grad_()
        for metric in NAMES:
            found = association_loss(alike, alike, torch.zeros(1, 3, 5, dtype=torch.int64), metric, normalise=False)
            assert float(found.loss.detach()) == pytest.approx(2 * math.log(15), rel=1e-5)

    def test_zero_vectors_are_no_trouble(self):
        source, target = random(1, 4, 3, 3), random(1, 4, 3, 3, seed=1)
        source[:, :, 0], target[:, :, 1] = 0, 0
        source, target = source.requires_grad_(), target.requires_grad_()
        found = association_loss(source, target, torch.zeros(1, 3, 3, dtype=torch.int64), "cosine")
        found.loss.backward()
        assert found.loss > 0
        assert source.grad.isfinite().all() and target.grad.isfinite().all()
        assert max(source.grad.abs().max(), target.grad.abs().max()) < 1e3

    def test_what_is_not_finite_is_told_and_not_hidden(self):
        source = random(1, 4, 3, 3)
        source[0, 0, 0, 0] = torch.nan
        labels = torch.zeros(1, 3, 3, dtype=torch.int64)
        assert association_loss(source, random(1, 4, 3, 3, seed=1), labels, "cosine").loss.isnan()

    def test_positions_that_are_not_valid_do_not_matter(self):
        source, target = random(2, 4, 3, 3), random(2, 4, 3, 4, seed=1)
        valid = torch.ones(2, 3, 4, dtype=torch.bool)
        valid[1, :, 2:] = False
        other = torch.where(valid[:, None], target, 7.0).requires_grad_()
        labels = labels_of(2, 3, 3)
        found = association_loss(source, other, labels, "cosine", valid=valid)
        torch.testing.assert_close(found, association_loss(source, target, labels, "cosine", valid=valid))
        (gradient,) = gradients(found.loss, other)
        assert not gradient[1, :, :, 2:].any() and gradient[0].any()

    def test_autocast_costs_no_digits(self):
        source, target = (random(2, 16, 4, 4, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
        labels = labels_of(2, 4, 4)
        exact = association_loss(source, target, labels, "cosine").loss
        with torch.autocast("cpu", torch.bfloat16):
            loss = association_loss(source, target, labels, "cosine").loss
        assert torch.equal(loss, exact)
        for found, expected in zip(gradients(loss, source), gradients(exact, source), strict=True):
            assert torch.equal(found, expected)

    @pytest.mark.parametrize(
        ("source", "target", "labels", "valid"),
        [
            ((2, 4, 3, 3), (2, 5, 3, 3), (2, 3, 3), None),
            ((2, 4, 3, 3), (1, 4, 3, 3), (2, 3, 3), None),
            ((4, 3, 3), (4, 3, 3), (3, 3), None),
            ((2, 4, 3, 3), (2, 4, 5, 5), (2, 5, 5), None),
            ((2, 4, 3, 3), (2, 4, 5, 5), (2, 3, 3), (2, 3, 3)),
        ],
    )
    def test_other_shapes_are_refused(self, source, target, labels, valid):
        with pytest.raises(ValueError, match="expected"):
            association_loss(
                torch.zeros(source),
                torch.zeros(target),
                torch.zeros(labels, dtype=torch.int64),
                "cosine",
                valid=None if valid is None else torch.ones(valid, dtype=torch.bool),
            )

    def test_labels_are_whole_numbers_and_masks_are_bool(self):
        ones = torch.ones(1, 2, 2, 2)
        with pytest.raises(ValueError, match="integer labels"):
            association_loss(ones, ones, torch.zeros(1, 2, 2), "cosine")
        with pytest.raises(ValueError, match="mask"):
            masks_of(ones, torch.ones(1, 2, 2))
