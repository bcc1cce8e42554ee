"""Scoring and labelling use no operator that is not deterministic on CUDA."""

import pytest
import torch
from support.cuda_operators import as_on_cuda
from support.labelling import AVERAGED, label_spec, net_of
from support.tiny import CPU

from udaseg.config.evaluation import Protocol
from udaseg.engine.aggregated import Aggregated
from udaseg.engine.predict import PLAIN, predict_scores
from udaseg.offline.label import label
from udaseg.validation import validate

FULL = validate(Protocol, AVERAGED | {"window": {"size": [16, 24], "stride": [8, 16]}})


@pytest.mark.parametrize("protocol", [PLAIN, FULL])
@pytest.mark.parametrize("share", [None, 0.5])
def test_of_scores(protocol, share, run):
    net = net_of(run)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with as_on_cuda() as found:
        predict_scores(net if share is None else Aggregated(net, share), image, (48, 72), protocol).argmax(1)
    assert "convolution" in found.seen and not found.objections


@pytest.mark.parametrize("rule", ["threshold", "class_balanced", "entropy", "soft", "argmax"])
def test_of_labels(rule, run, source, target, tmp_path):
    with as_on_cuda() as found:
        label(label_spec(run, target, source=source, rule=rule, prototypes="source"), tmp_path, CPU)
    assert "convolution" in found.seen and not found.objections
