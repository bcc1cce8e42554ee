"""A kind of data set is one file and one line in `DATASETS`."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from support.project import load, tiny

from udaseg.cli.job_commands import run_job
from udaseg.data.datasets import DATASETS
from udaseg.data.datasets.base import DatasetParams, Item, require_split
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.jobs import job as jobs
from udaseg.jobs.build import prepare_job
from udaseg.jobs.job import Plan
from udaseg.runs.files import write_yaml


# What a contributor's file holds.
class Stripes:
    """Two classes in stripes."""

    names = ("road", "sky")
    splits = ("train",)

    def __init__(self, width: int) -> None:
        self.label = (np.indices((16, 24))[1] // width % 2).astype(np.uint8)

    def items(self, split: str) -> list[Item]:
        require_split(split, self.splits, "stripes")
        image = np.repeat(255 * self.label[..., None], 3, axis=2)
        return [Item("only", lambda: image, lambda: self.label)]


class StripesData(DatasetParams):
    """Stripes of two classes."""

    kind: Literal["stripes"]
    width: int = 3
    """Width of a stripe, in pixels."""

    def splits(self) -> list[str]:
        return ["train"]

    def open(self, unpacked: Path | None = None) -> Stripes:
        return Stripes(self.width)


def test_keys_are_kinds() -> None:
    assert {name: get_args(model.model_fields["kind"].annotation) for name, model in DATASETS.items()} == {
        name: (name,) for name in DATASETS
    }


def test_a_kind_of_ones_own_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "stripes", StripesData)
    monkeypatch.setattr(jobs, "fingerprint", lambda *entries: "-".join(entries))  # its file is not in the package
    monkeypatch.chdir(tmp_path)

    def stripes(**changes: Any) -> dict[str, Any]:
        return tiny(datasets={"mine": {"kind": "stripes"} | changes}, task={"source": {"dataset": "mine"}})

    with pytest.raises(UserError, match=r"\ndatasets\.mine\.widht: unknown key; did you mean 'width'\?"):
        load(tmp_path, stripes(widht=2))
    params = load(tmp_path, stripes())
    job = prepare_job(params, Plan("tiny"), "mine", (8, 12), ["road", "sky"])
    assert job.parents == ()  # nothing to download
    spec = job.spec.model_dump(mode="json")
    assert spec["dataset"] == {"kind": "stripes", "width": 3}
    assert spec["code"] == "data.sets.build-data.datasets.stripes"
    write_yaml(tmp_path / "spec.yaml", spec)
    run_job(Namespace(verb="prepare", spec=tmp_path / "spec.yaml"))
    prepared = PreparedSet(tmp_path / job.folder)
    assert prepared.names("train") == ["only"] and prepared.spec == spec["dataset"]
    assert np.unique(prepared.label("train", "only")).tolist() == [0, 1]
    assert (prepared.folder / "contact.png").is_file()
