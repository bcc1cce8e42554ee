"""A translator through the whole DAG: trained as a stage, taken by those after it, shown and not scored."""

import pandas as pd
import pytest
from support.project import Project, finished_study, tiny

from udaseg.runs.files import read_json, read_yaml

pytestmark = pytest.mark.slow

SMALL = {"knobs": {"width": 4, "blocks": 1, "critic_width": 4}}
STUDY = tiny(
    run=["source_only", "dacs_cpsl", "diga"],
    recipes={"diga": {"stages": {"translator": SMALL}}},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return finished_study(tmp_path_factory, STUDY)


def test_it_is_a_run_without_scores_that_later_stages_take(finished: Project) -> None:
    (translator,) = finished.folder.glob("results/toytown*/cyclegan/*")
    assert not list(translator.glob("evaluate-*"))
    assert "monitor" not in (translator / "history.jsonl").read_text()
    for method in ("diga_warmup", "diga"):
        (run,) = finished.folder.glob(f"results/toytown*/{method}/*")
        assert finished.folder / read_yaml(run / "spec.yaml")["init"]["translator"] == translator
        assert len(list(run.glob("evaluate-*"))) == 1


def test_what_it_does_is_shown(finished: Project) -> None:
    (shown,) = finished.folder.glob("results/toytown*/translation-*")
    assert read_json(shown / "translate.json")["translator"] == "cyclegan"
    assert len(list(shown.glob("translated-*.png"))) == len(list(shown.glob("source-*.png"))) > 0
    report = finished.folder / "reports" / "tiny"
    assert (report / "figures" / "translations.png").is_file()
    assert 'id="translations"' in (report / "index.html").read_text()
    stages = pd.read_csv(report / "tables" / "stages.csv")
    assert list(stages[stages["method"] == "diga"]["stage"]) == ["warmup", "main"]


def test_self_labelling_starts_from_what_the_warm_up_left(finished: Project) -> None:
    (history,) = finished.folder.glob("results/toytown*/dacs_cpsl/*/history.jsonl")
    lines = [line for line in history.read_text().splitlines() if '"terms"' in line]
    assert all('"self_label"' in line and '"prototypes"' in line for line in lines)


def test_nothing_is_left_to_do(finished: Project) -> None:
    assert finished.todo() == {}
