"""Names of folders: readable, short enough, and of characters that no tool splits or escapes."""

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.target_jobs import parse_target_jobs_cli_args

from udaseg.jobs.job import Plan
from udaseg.jobs.names import LONGEST, run_name
from udaseg.jobs.plan import make_plan
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import HASH_DIGITS
from udaseg.study.load import load_study

ROOT = Path(__file__).parents[2]
NAME = re.compile(rf"[A-Za-z0-9._=-]{{1,{LONGEST - HASH_DIGITS - 1}}}")
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
values = st.recursive(plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)))
names = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)


@given(st.lists(st.tuples(names, values), max_size=8), st.integers(0, 2**64))
def test_odd_values_make_sound_names(changes: list[tuple[str, Any]], seed: int) -> None:
    name = run_name(changes, seed)
    assert NAME.fullmatch(name)
    assert name.endswith(f"seed={seed}") and name[0].isalnum()


@given(st.lists(st.tuples(names, st.integers(0, 999)), max_size=12), st.integers(0, 99))
def test_whole_words_are_cut_and_no_more_than_necessary(changes: list[tuple[str, int]], seed: int) -> None:
    words = [f"{name}={value}" for name, value in changes]
    name = run_name(changes, seed)
    kept = next(count for count in range(len(words) + 1) if "_".join([*words[:count], f"seed={seed}"]) == name)
    longer = "_".join([*words[: kept + 1], f"seed={seed}"])
    assert kept == len(words) or not NAME.fullmatch(longer)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.05, "0.05"),
        (1e-05, "1e-05"),
        (1e20, "1e20"),
        (-1.5, "-1.5"),
        (True, "true"),
        (None, "none"),
        ([0.5, 1.0], "0.5-1"),
        (["road", "sky"], "road-sky"),
        ("least_squares", "least_squares"),
        ("a,b c/../$x", "a-b-c-..-x"),
    ],
)
def test_values_are_readable(value: Any, text: str) -> None:
    assert run_name([("knob", value)], 3) == f"knob={text}_seed=3"


@pytest.fixture(scope="module")
def everything() -> Plan:
    """All recipes and sweeps: the largest study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return make_plan(load_study(Path("params.yaml"), "toytown_full"))


def test_no_tool_splits_or_escapes_a_folder_of_a_study(everything: Plan) -> None:
    assert len(everything.jobs) > 400
    for job in everything.jobs.values():
        name = Path(job.folder).name
        assert re.fullmatch(rf"[A-Za-z0-9._=-]{{1,{LONGEST}}}", name), name
        assert shlex.quote(name) == name and quote(name, safe="=") == name
        if KINDS[job.kind].work:
            assert re.fullmatch(rf"\S+-[0-9a-f]{{{HASH_DIGITS}}}", name)


def test_the_name_and_place_of_a_folder_tell_its_kind(everything: Plan) -> None:
    for job in everything.jobs.values():
        assert [name for name, kind in KINDS.items() if re.fullmatch(kind.regex, job.folder)] == [job.kind]


def test_snakemakes_executors_get_the_folder_whole(everything: Plan) -> None:
    """A job on a cluster is named as RULE:WILDCARD=VALUE,…, and Snakemake splits that at every comma."""
    for job in everything.jobs.values():
        (target,) = parse_target_jobs_cli_args([f"{job.kind}:folder={job.folder}"])
        assert target.wildcards_dict == {"folder": job.folder}
