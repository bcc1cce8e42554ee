"""Claims as data: every row that workflow/claims.yaml names is there, and a wrong entry stops with what is known."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import ROOT

from udaseg.config.claims import Claim
from udaseg.config.schema import Params
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.study.claims import load_claims
from udaseg.study.load import load_params
from udaseg.study.resolve import resolve_study

FILE = ROOT / "workflow" / "claims.yaml"
PAIR = {"better": "oracle", "than": "source_only"}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml", "toytown_sweeps")


def entry(**changes: Any) -> dict[str, Any]:
    given = {"name": "one", "claim": "It helps", "paper": "ProDA", "where": "Table 3", "pairs": [PAIR], **changes}
    return {key: value for key, value in given.items() if value is not None}


def load(folder: Path, params: Params, *entries: dict[str, Any]) -> list[Claim]:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return load_claims(path, params)


def test_the_sweep_study_has_every_row_of_the_claims_but_the_late_stages_of_cpsl(params: Params) -> None:
    rows = {row.name for row in resolve_study(params).rows}
    absent = {row for claim in load_claims(FILE, params) for row in claim.rows()} - rows
    assert absent == {"cpsl:stage1", "cpsl:stage2", "cpsl:stage3"}


@pytest.mark.parametrize("study", ["demo", "toytown", "toytown_clusters"])
def test_claims_about_rows_that_a_study_lacks_are_no_mistake(study: str) -> None:
    claims = load_claims(FILE, load_params(ROOT / "params.yaml", study))
    assert {claim.paper for claim in claims} == {"CBST", "ProDA", "PLCA", "PiPa", "CPSL", "DiGA"}


def test_the_margins_of_equivalence_are_around_the_recipes_own_values(params: Params) -> None:
    """The reference of 'insensitive within a decade' is what the recipe has, and the rows are the decade around it."""
    claim = next(claim for claim in load_claims(FILE, params) if claim.alike)
    grid = {row.name: row.point for row in resolve_study(params).rows if row.sweep == "pipa_alpha_beta"}
    own = {term: METHODS["pipa"].SPEC.weights[term] for term in ("pixel", "patch")}
    assert grid[str(claim.to)] == {f"main.weights.{term}": value for term, value in own.items()}
    assert set(claim.alike) == set(grid) - {claim.to}
    for name in claim.alike:
        assert all(abs(math.log10(grid[name][f"main.weights.{term}"] / own[term])) < 1 + 1e-9 for term in own)


def test_rows_are_recipes_stages_and_points(tmp_path: Path, params: Params) -> None:
    [claim] = load(
        tmp_path,
        params,
        entry(
            pairs=[
                {"better": "cbst:round3", "than": "cbst:warmup"},
                {"better": "pipa_terms/both", "than": "oracle"},
                {"better": "pipa_alpha_beta/pixel=0.7, patch=3.0", "than": "oracle"},  # of another study's grid
            ]
        ),
    )
    assert claim.rows() == [
        *("cbst:round3", "cbst:warmup", "pipa_terms/both", "oracle"),
        "pipa_alpha_beta/pixel=0.7, patch=3.0",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("prado", r"claim 'one': recipe 'prado' is not known; did you mean 'proda'\?"),
        ("zzz", r"recipe 'zzz' is not known; known: source_only, .*oracle, .*SWEEP/POINT"),
        ("cbst:round", r"stage 'round' of recipe 'cbst' is not known; did you mean 'round\d'\?"),
        ("cbst:round4", r"stage 'round4' of recipe 'cbst' is not known"),
        ("pipa_term/both", r"sweep 'pipa_term' is not known; did you mean 'pipa_terms'\?"),
        ("pipa_terms/all", r"point 'all' of sweep 'pipa_terms' is not known; known: both, pixel only, patch only"),
    ],
)
def test_a_row_that_is_nowhere_is_a_mistake(tmp_path: Path, params: Params, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, params, entry(pairs=[{"better": "oracle", "than": row}]))


def test_all_wrong_rows_are_told_at_once(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError) as raised:
        load(tmp_path, params, entry(pairs=[{"better": "aaa", "than": "bbb"}]), entry(name="two", pairs=[PAIR]))
    assert "'aaa'" in str(raised.value) and "'bbb'" in str(raised.value) and "two" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": None}, "claims.0.pairs: give either `pairs`, or all of `alike`, `to` and `margin`"),
        ({"alike": ["proda"], "to": "proda", "margin": 1.0}, "claims.0.pairs: give either"),
        ({"pairs": None, "alike": ["proda"], "to": "cbst"}, "claims.0.pairs: give either"),
        ({"pairs": None, "alike": ["proda"], "to": "cbst", "margin": 0.0}, "claims.0.margin: .*greater than 0"),
        ({"classes": []}, "claims.0.classes: is empty"),
        ({"classes": "few"}, "claims.0.classes"),
        ({"where": ""}, "claims.0.where"),
        ({"source": "Table 3"}, "claims.0.source: unknown key"),
    ],
)
def test_a_wrong_entry_is_a_mistake_at_its_key(
    tmp_path: Path, params: Params, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, params, entry(**changes))


def test_a_name_stands_for_one_claim(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"claims.yaml: names one twice"):
        load(tmp_path, params, entry(), entry(claim="It hurts"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml"):
        load_claims(tmp_path / "nowhere.yaml", params)
