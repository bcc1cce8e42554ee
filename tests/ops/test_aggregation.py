"""Spatial aggregation against a loop over single positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.ops.aggregation import aggregate_features, aggregate_predictions
from udaseg.ops.association import contrast_scores, positions, similarity

SHARES = pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive(maps, metric, share, normalise, valid=None):
    """Position by position; weights of one row at a time."""
    result = maps.clone()
    for image in range(len(maps)):
        places = [(y, x) for y in range(maps.shape[2]) for x in range(maps.shape[3])]
        places = [place for place in places if valid is None or valid[image][place]]
        for place in places:
            own = maps[image][:, place[0], place[1]]
            others = torch.stack([maps[image][:, y, x] for y, x in places])
            if metric == "cosine":
                row = others @ own / (others.norm(dim=1) * own.norm())
            else:
                row = (own * ((others + 1e-10).log() - (own + 1e-10).log())).sum(dim=1)
            weights = contrast_scores(row[None], normalise)[0]
            result[image][:, place[0], place[1]] = (1 - share) * own + share * (weights[:, None] * others).sum(0)
    return result


def mask(*shape):
    return random(*shape, seed=5) > -0.3


class TestFeatures:
    @SHARES
    @pytest.mark.parametrize("normalise", [True, False])
    @pytest.mark.parametrize("masked", [True, False])
    def test_values_are_those_of_a_naive_loop(self, share, normalise, masked):
        features = random(2, 4, 3, 5)
        valid = mask(2, 3, 5) if masked else None
        found = aggregate_features(features, share, normalise, valid)
        torch.testing.assert_close(found, naive(features, "cosine", share, normalise, valid))

    def test_gradient_without_normalisation(self):
        # With it, mean and deviation are no part of the gradient.
        features = random(1, 3, 2, 3).requires_grad_()
        assert gradcheck(lambda f: aggregate_features(f, 0.5, normalise=False, rows=4), features)
        valid = torch.tensor([[[True, True, False], [True, False, True]]])
        assert gradcheck(lambda f: aggregate_features(f, 0.5, normalise=False, valid=valid), features)

    def test_its_gradient_is_that_of_whole_matrices(self):
        features, towards = random(1, 4, 3, 4).requires_grad_(), random(1, 4, 3, 4, seed=1)
        rows = features[0].flatten(1).mT
        weights = contrast_scores(similarity(*positions(rows, "cosine")))
        plain = (0.7 * rows + 0.3 * weights @ rows).mT.view(1, 4, 3, 4)
        for count in (1, 5, None):
            found = aggregate_features(features, 0.3, rows=count)
            torch.testing.assert_close(found, plain)
            torch.testing.assert_close(
                torch.autograd.grad((found * towards).sum(), features),
                torch.autograd.grad((plain * towards).sum(), features, retain_graph=True),
            )

    @settings(deadline=None)
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(0, 50))
    def test_chunks_do_not_matter(self, height, width, rows, seed):
        features = random(2, 3, height, width, seed=seed).requires_grad_()
        found, whole = (aggregate_features(features, 0.5, rows=count) for count in (rows, None))
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), features), torch.autograd.grad(whole.square().sum(), features)
        )

    def test_share_zero_is_no_aggregation(self):
        features = random(2, 4, 3, 3, dtype=torch.float32)
        assert torch.equal(aggregate_features(features, 0.0), features)

    def test_every_position_gets_a_gradient_from_one(self):
        features = random(1, 4, 5, 5).requires_grad_()
        aggregate_features(features, 0.5)[0, :, 2, 2].square().sum().backward()
        assert (features.grad != 0).any(dim=1).all()

    def test_images_do_not_see_each_other(self):
        features = random(2, 4, 3, 3)
        torch.testing.assert_close(aggregate_features(features, 0.5)[:1], aggregate_features(features[:1], 0.5))

    def test_what_is_not_valid_stays_and_enters_nothing(self):
        features, valid = random(2, 4, 3, 3), mask(2, 3, 3)
        other = torch.where(valid[:, None], features, 9.0)
        found = aggregate_features(other, 0.5, valid=valid)
        assert (found.movedim(1, -1)[~valid] == 9).all()
        torch.testing.assert_close(
            found.movedim(1, -1)[valid], aggregate_features(features, 0.5, valid=valid).movedim(1, -1)[valid]
        )

    def test_with_nothing_valid_all_stays(self):
        features = random(1, 4, 2, 2)
        nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
        assert torch.equal(aggregate_features(features, 0.5, valid=nothing), features)

    @pytest.mark.parametrize("value", [0.0, 2.0])
    def test_constant_maps_stay(self, value):
        features = torch.full((1, 3, 4, 4), value).requires_grad_()
        found = aggregate_features(features, 0.5)
        found.sum().backward()
        torch.testing.assert_close(found, features)
        assert features.grad.isfinite().all()

    def test_one_position_stays(self):
        features = random(2, 3, 1, 1)
        assert torch.equal(aggregate_features(features, 0.5), features)

    def test_a_zero_vector_takes_the_mean(self):
        features = random(1, 3, 2, 3)
        features[:, :, 0, 0] = 0
        found = aggregate_features(features, 1.0)
        torch.testing.assert_close(found[0, :, 0, 0], features[0].flatten(1).mean(1))

    def test_autocast_costs_no_digits(self):
        features = random(1, 8, 4, 4, dtype=torch.float32).requires_grad_()
        exact = aggregate_features(features, 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            found = aggregate_features(features, 0.5)
        assert torch.equal(found, exact)
        assert torch.equal(*(torch.autograd.grad(one.square().sum(), features)[0] for one in (found, exact)))
        assert aggregate_features(features.bfloat16(), 0.5).dtype == torch.float32

    @pytest.mark.parametrize(("shape", "share"), [((4, 3, 3), 0.5), ((1, 4, 3, 3), 1.5), ((1, 4, 3, 3), -0.1)])
    def test_other_shapes_and_shares_are_refused(self, shape, share):
        for aggregate in (aggregate_features, aggregate_predictions):
            with pytest.raises(ValueError, match="expected"):
                aggregate(torch.zeros(shape), share)

    def test_a_mask_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match="mask"):
            aggregate_features(torch.zeros(1, 4, 3, 3), 0.5, valid=torch.ones(1, 3, 4, dtype=torch.bool))


class TestPredictions:
    @SHARES
    @pytest.mark.parametrize("masked", [True, False])
    def test_values_are_those_of_a_naive_loop(self, share, masked):
        probs = (2 * random(2, 4, 3, 5)).softmax(dim=1)
        valid = mask(2, 3, 5) if masked else None
        found = aggregate_predictions(probs, share, valid)
        torch.testing.assert_close(found, naive(probs, "divergence", share, False, valid))

    def test_gradient(self):
        logits = random(1, 3, 2, 3).requires_grad_()
        assert gradcheck(lambda one: aggregate_predictions(one.softmax(dim=1), 0.5, rows=4), logits)

    @settings(deadline=None)
    @given(st.integers(2, 6), st.integers(1, 5), st.floats(0, 1), st.integers(1, 30), st.integers(0, 50))
    def test_they_stay_distributions(self, classes, side, share, rows, seed):
        probs = (3 * random(2, classes, side, side, seed=seed)).softmax(dim=1)
        found = aggregate_predictions(probs, share, rows=rows)
        assert found.min() >= 0
        torch.testing.assert_close(found.sum(dim=1), torch.ones(2, side, side, dtype=torch.float64))
        torch.testing.assert_close(found, aggregate_predictions(probs, share))

    def test_certain_predictions_stay(self):
        probs = torch.eye(3).T[None, :, :, None].clone().requires_grad_()
        found = aggregate_predictions(probs, 0.5)
        found.square().sum().backward()
        torch.testing.assert_close(found, probs)
        assert probs.grad.isfinite().all()
