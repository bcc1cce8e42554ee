"""Runs that no table may mix, through the whole DAG: aggregated scores, and labels of some target images."""

import pandas as pd
import pytest
from support.project import Project, finished_study, tiny

from udaseg.runs.files import read_json, read_yaml

pytestmark = pytest.mark.slow

LABELLED = {"source": {"labelled_target": {"images": 2, "finish": 1, "order": "paper"}}}
EARLY = {"bank_start": 0, "contrast_start": 1, "ramp_iterations": 1, "weights_start": 1, "window": 1, "confidence": 0.0}
STUDY = tiny(
    run=["source_only", "plca", "plca_aggregated", "source_only_semi", "memory_bank_semi"],
    recipes={
        "source_only_semi": {"stages": {"warmup": {"train": LABELLED}, "main": {"train": LABELLED}}},
        "memory_bank_semi": {"stages": {"warmup": {"train": LABELLED}, "main": {"train": LABELLED, "knobs": EARLY}}},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return finished_study(tmp_path_factory, STUDY)


def table(finished: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(finished.folder / "reports" / "tiny" / "tables" / f"{name}.csv").set_index("method")


def test_one_training_is_scored_in_two_ways_under_two_names(finished: Project) -> None:
    (run,) = finished.folder.glob("results/toytown*/plca/*")
    scored = {
        read_yaml(folder / "spec.yaml")["protocol"]["aggregate"]: read_json(folder / "metrics.json")["scores"]["last"]
        for folder in run.glob("evaluate-*")
    }
    assert {share: list(score["sets"]) for share, score in scored.items()} == {
        None: ["mIoU16"], 0.5: ["mIoU16_aggregated"],
    }  # fmt: skip
    assert scored[None]["confusion"] != scored[0.5]["confusion"]
    main = table(finished, "main")
    assert main["metric"].to_dict()["plca_aggregated"] == "mIoU16_aggregated"
    assert main.loc["plca_aggregated", "difference_to_source_only_n"] == 0
    assert main.loc["plca", "difference_to_source_only_n"] == 1


def test_labelled_target_images_have_a_table_of_their_own(finished: Project) -> None:
    semi = table(finished, "semi_supervised_2")
    assert set(semi.index) == {"source_only_semi", "memory_bank_semi"}
    assert semi.loc["memory_bank_semi", "difference_to_source_only_semi_n"] == 1
    for name in ("main", "classes"):
        assert not set(table(finished, name).index) & set(semi.index)
    assert set(semi.index) <= set(table(finished, "cost").index)


def test_the_bank_was_filled(finished: Project) -> None:
    (history,) = finished.folder.glob("results/toytown*/memory_bank/*/history.jsonl")
    assert '"bank": 0.0' not in history.read_text().splitlines()[-1]
