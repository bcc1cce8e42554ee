"""The table of the kinds of jobs: what other parts read from it."""

from typing import get_args

from udaseg.archive.dvc_snapshot import PARTS
from udaseg.runs.kinds import KINDS
from udaseg.runs.records import KEPT


def test_every_spec_has_its_line() -> None:
    for name, kind in KINDS.items():
        assert get_args(kind.spec.model_fields["kind"].annotation) == (name,)


def test_every_job_that_computes_compares_the_code_that_it_was_planned_with() -> None:
    for kind in KINDS.values():
        assert bool(kind.code) == ("code" in kind.spec.model_fields)
        assert kind.code or not kind.work


def test_the_parts_of_the_snapshot_and_the_files_of_records() -> None:
    assert PARTS["data"] == ("prepare",) and PARTS["report"] == ("report",)
    assert set(PARTS["runs"]) == {"train", "label", "quality", "translate", "evaluate"}
    assert {name for name, kind in KINDS.items() if kind.numbers} == {"train", "label", "quality", "evaluate"}
    assert {"spec.yaml", "cost.json", "env.json", "result.json", "history.jsonl", "metrics.json"} <= KEPT
    assert {"counts.npz", "quality.json", "labels.json"} <= KEPT and len(KEPT) == 9
