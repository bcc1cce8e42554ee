"""A network is one file and one line: one is added here, and builds, is planned, starts from its weights and learns."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from support.project import load, tiny
from support.tiny import objects_spec, prepare_objects, stepper, steps, train_spec
from torch import Tensor, nn

from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.jobs.plan import make_plan
from udaseg.methods.source_only import SourceOnly
from udaseg.nets import NETWORKS
from udaseg.nets.base import Backbone
from udaseg.reports.tables.published import _network
from udaseg.runs.spec import ReportSpec, TrainSpec


class Toy(Backbone):
    """What the file of a new network would hold."""

    title = "toy-{depth}"
    feature_channels: ClassVar = {"half": 4, "quarter": 8}
    head_feature = "quarter"
    aux_feature = "half"
    head_width = 8
    dilations = (1, 2, 3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        half = self.first(images).relu()
        return {"half": half, "quarter": self.second(half).relu()}


class Published(Toy):
    pretraining_job = False

    @classmethod
    def published_weights(cls, spec: Any) -> dict[str, Tensor]:
        return {name: torch.ones_like(tensor) for name, tensor in cls().state_dict().items()}


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "toy", Toy)
    monkeypatch.setitem(NETWORKS, "published", Published)


def trainings(folder: Path, name: str) -> tuple[list[TrainSpec], ReportSpec]:
    plan = make_plan(load(folder, tiny(run=["source_only", "dann"], network={"name": name})))
    specs = [job.spec for job in plan.jobs.values()]
    [report] = [spec for spec in specs if isinstance(spec, ReportSpec)]
    return [spec for spec in specs if isinstance(spec, TrainSpec)], report


def test_it_is_pretrained_by_a_job(tmp_path: Path) -> None:
    specs, _ = trainings(tmp_path, "toy")
    assert {spec.network.name for spec in specs} == {"toy"}
    [pretraining] = [spec for spec in specs if spec.init == {"student": "scratch"}]
    assert [spec.init["student"] for spec in specs if spec is not pretraining] == [pretraining.folder] * 2


def test_or_starts_from_published_weights(tmp_path: Path) -> None:
    specs, _ = trainings(tmp_path, "published")
    assert [spec.init for spec in specs] == [{"student": "imagenet"}] * 2
    prepared = prepare_objects(tmp_path, {"train": 2, "val": 1})
    spec = objects_spec(prepared, None, network={"name": "published"}, init={"student": "imagenet"})
    training = Training(spec, SourceOnly, tmp_path / "state", torch.device("cpu"))
    assert training.context.matched == {"student": 1.0}
    assert all((tensor == 1).all() for tensor in training.method.net.backbone.parameters())


@pytest.mark.parametrize("head", ["aspp", "squeeze_excite"])
@pytest.mark.parametrize("method", ["source_only", "adaptsegnet"])
def test_it_learns(method: str, head: str) -> None:
    run = stepper(train_spec(method, network={"name": "toy", "head": head}))
    before = run.method.net.backbone.second.weight.clone()
    steps(run, 0, 2)
    assert not torch.equal(run.method.net.backbone.second.weight, before)


def test_reports_show_its_title(tmp_path: Path) -> None:
    specs, report = trainings(tmp_path, "toy")
    assert report.networks == {name: backbone.title for name, backbone in NETWORKS.items()}
    network = specs[0].network.model_dump(mode="json")
    assert _network(network, report.networks) == f"toy-{network['depth']}"
    assert _network(network, {}) == "toy"  # as in specs of reports that were written before there were titles


def test_a_misspelt_name_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network\.name: 'toi' is not known; did you mean 'toy'\?"):
        trainings(tmp_path, "toi")
    over = tiny(recipes={"source_only": {"stages": {"main": {"network": {"name": "smal"}}}}})
    with pytest.raises(UserError, match=r"main\.network\.name: 'smal' is not known; did you mean 'small'\?"):
        load(tmp_path, over)
