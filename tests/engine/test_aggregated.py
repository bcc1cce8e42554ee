"""PLCA's test-time aggregation against a computation of one position after the other."""

import math

import pytest
import torch
from support.tiny import CLASSES, train_spec
from torch import nn

from udaseg.config.evaluation import Labels, Protocol
from udaseg.engine.aggregated import Aggregated
from udaseg.engine.predict import PLAIN, predict_scores
from udaseg.errors import UserError
from udaseg.nets.base import Outputs
from udaseg.nets.build import build_network
from udaseg.nets.heads import Aspp
from udaseg.ops.maps import resize
from udaseg.validation import validate


class Local(nn.Module):
    """A network whose embedding at a pixel is that pixel's colours: that of a picture of one colour is uniform."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = Aspp(3, 4, (1,))
        self.head.branches[0] = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return Outputs(self.head.classify(images), None, {"embedding": images})


def network():
    """In double precision: cosines of neighbours hardly differ, and how they differ is what counts."""
    net = build_network(train_spec().network, len(CLASSES), 1, seed=0).eval().double()
    with torch.no_grad():
        net.head.branches[0].weight.mul_(100)  # an untrained head gives nearly the same logits everywhere
    return net


def image(count=1):
    return torch.rand(count, 3, 40, 56, generator=torch.Generator().manual_seed(0)).double()


def spread(maps, similarities, share):
    """Maps (D, L) of which `share` is the mean over all positions, weighted by the softmax of similarities (L, L)."""
    found = maps.clone()
    for position, row in enumerate(similarities):
        weights = row.exp() / row.exp().sum()
        found[:, position] = (1 - share) * maps[:, position] + share * (maps * weights).sum(1)
    return found


def naive(net, view, share):
    """Probabilities (1, C, h, w) of an image."""
    embedding = net(view).features["embedding"]
    features = embedding[0].flatten(1)
    cosines = torch.stack([torch.cosine_similarity(each[:, None], features, 0) for each in features.T])
    rows = (cosines - cosines.mean(1, keepdim=True)) / cosines.std(1, keepdim=True)
    probs = net.head.classify(spread(features, rows, share).view_as(embedding)).softmax(1)
    flat = probs[0].flatten(1)
    logs = (flat + 1e-10).log()
    pairs = zip(flat.T, logs.T, strict=True)
    divergences = torch.stack([(one[:, None] * (log[:, None] - logs)).sum(0) for one, log in pairs])
    return spread(flat, -divergences, share).view_as(probs)


@torch.no_grad()
def test_logits_are_logarithms_of_the_naive_probabilities_and_the_rest_is_the_networks():
    net = network()
    found = Aggregated(net, 0.5)(image(2))
    for index, one in enumerate(image(2)):
        torch.testing.assert_close(found.logits[index : index + 1].exp(), naive(net, one[None], 0.5))
    plain = net(image(2))
    assert not torch.allclose(found.logits, plain.logits.log_softmax(1), atol=0.01)
    assert all(torch.equal(features, plain.features[name]) for name, features in found.features.items())


@torch.no_grad()
def test_a_pass_is_scored_as_any_networks():
    net = network()
    protocol = PLAIN.model_copy(update={"flip": True, "scales": [0.5, 1.0]})
    found = predict_scores(Aggregated(net, 0.5), image(), (81, 111), protocol)
    views = [image(), nn.functional.interpolate(image(), (20, 28), mode="bilinear", antialias=True)]
    passes = [naive(net, view, 0.5) for view in views] + [naive(net, view.flip(-1), 0.5).flip(-1) for view in views]
    expected = sum(resize(probs.log(), (81, 111)).softmax(1) for probs in passes) / 4
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_nothing_changes_where_all_is_uniform(share):
    grey = torch.full((1, 3, 12, 20), 0.3)
    net = Local()
    torch.testing.assert_close(Aggregated(net, share)(grey).logits, net(grey).logits.log_softmax(1))


@torch.no_grad()
def test_a_vanishing_share_leaves_the_networks_probabilities():
    net = network()
    found = Aggregated(net, 1e-9)(image()).logits
    torch.testing.assert_close(found.exp(), net(image()).logits.softmax(1))


@torch.no_grad()
def test_a_probability_of_zero_is_no_harm():
    net = Local().double()
    net.head.branches[0].weight.mul_(1e4)
    assert (net(image()).logits.softmax(1) == 0).any()
    scores = predict_scores(Aggregated(net, 0.5), image(), (81, 111), PLAIN)
    assert torch.isfinite(scores).all()


def test_the_mode_is_that_of_the_network_inside():
    net = network()
    assert not Aggregated(net, 0.5).eval().net.training


@pytest.mark.parametrize("share", [0, -0.5, 1.5, math.nan, "half"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match="aggregate"):
        validate(Protocol, PLAIN.model_dump() | {"aggregate": share}, "evaluate.protocol")


def test_labels_are_never_aggregated():
    content = {
        "rule": "threshold", "protocol": PLAIN.model_dump() | {"aggregate": 0.5}, "threshold": 0.5, "portion": 0.3,
        "every": 4, "mine_below": 0.05, "sharpness": 0.25, "min_pixels": 5, "prototypes": "target",
    }  # fmt: skip
    with pytest.raises(UserError, match="is for scores only"):
        validate(Labels, content, "labels")
