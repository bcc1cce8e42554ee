"""What is laid upon what, and what it becomes: files, and recipes upon their bases."""

from typing import Any

import pytest

from udaseg.errors import UserError
from udaseg.study.overlay import overlay, with_bases

PLAIN: dict[str, Any] = {
    "title": "Plain",
    "protocol": {"flip": True},
    "stages": {
        "warmup": {"method": "source_only"},
        "main": {
            "method": "dann",
            "init": {"student": "warmup", "critic": "scratch"},
            "knobs": {"hidden": 8, "gamma": 5.0},
            "weights": {"domain": 0.5},
            "optim": {"lr": 0.1, "clip_gradient": 1.0},
        },
    },
}


def test_overlay_merges_mappings_and_replaces_the_rest() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert overlay(base, {"a": {"y": [3]}, "c": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_overlay_of_another_kind_starts_anew() -> None:
    base = {"mine": {"kind": "toytown", "world": 1}}
    assert overlay(base, {"mine": {"kind": "camvid", "version": 1}}) == {"mine": {"kind": "camvid", "version": 1}}
    assert overlay(base, {"mine": {"kind": "toytown", "size": 2}})["mine"] == {"kind": "toytown", "world": 1, "size": 2}


def derived(**over: Any) -> Any:
    """A recipe that says `over` and takes the rest from `plain`."""
    return with_bases({"mine": {"base": "plain"} | over, "plain": PLAIN})["mine"]


def main(**over: Any) -> Any:
    """The main stage of such a recipe, which says `over` of this stage."""
    return derived(stages={"main": over})["stages"]["main"]


def test_a_recipe_without_a_base_is_as_it_was() -> None:
    assert with_bases({"plain": PLAIN}) == {"plain": PLAIN}


def test_a_recipe_says_what_differs_from_its_base() -> None:
    expected = overlay(PLAIN, {"title": "Mine", "stages": {"main": {"knobs": {"hidden": 16}}}})
    assert derived(title="Mine", stages={"main": {"knobs": {"hidden": 16}}}) == expected
    assert derived() == PLAIN  # nothing is left of the word `base`


def test_bases_may_have_bases_in_any_order() -> None:
    third = {"base": "second", "stages": {"main": {"weights": {"domain": 2.0}}}}
    second = {"base": "plain", "stages": {"main": {"knobs": {"hidden": 16}}}}
    found = with_bases({"third": third, "second": second, "plain": PLAIN})
    assert list(found) == ["third", "second", "plain"]
    assert found["third"]["stages"]["main"]["knobs"] == {"hidden": 16, "gamma": 5.0}
    assert found["third"]["stages"]["main"]["weights"] == {"domain": 2.0}
    assert found["second"]["stages"]["main"]["weights"] == {"domain": 0.5} and found["plain"] == PLAIN


def test_a_new_stage_comes_last() -> None:
    assert list(derived(stages={"late": {"method": "adabn"}})["stages"]) == ["warmup", "main", "late"]


@pytest.mark.parametrize("part", ["init", "knobs", "weights", "optim"])
def test_null_removes_a_part_of_a_stage(part: str) -> None:
    assert main(**{part: None}) == {key: value for key, value in PLAIN["stages"]["main"].items() if key != part}


def test_null_removes_stages_and_entries() -> None:
    assert list(derived(stages={"warmup": None})["stages"]) == ["main"]
    assert derived(protocol=None) == {key: value for key, value in PLAIN.items() if key != "protocol"}
    assert main(init={"critic": None})["init"] == {"student": "warmup"}
    assert main(knobs={"gamma": None, "hidden": 4})["knobs"] == {"hidden": 4}
    assert main(weights={"domain": None})["weights"] == {}


def test_what_a_base_removes_is_gone_for_those_built_on_it() -> None:
    found = with_bases({"a": {"base": "b"}, "b": {"base": "plain", "stages": {"warmup": None}}, "plain": PLAIN})
    assert list(found["a"]["stages"]) == ["main"]


def test_deeper_down_null_is_a_value() -> None:
    assert main(optim={"clip_gradient": None})["optim"] == {"lr": 0.1, "clip_gradient": None}


def test_null_as_a_base_is_none() -> None:
    assert with_bases({"mine": PLAIN | {"base": None}}) == {"mine": PLAIN}


def test_bases_are_not_changed_by_what_is_built_on_them() -> None:
    before = overlay({}, PLAIN)
    derived(stages={"main": {"knobs": {"hidden": 16}}})["stages"]["main"]["knobs"]["gamma"] = 1.0
    assert before == PLAIN


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"mine": {"base": "plan"}, "plain": PLAIN}, r"^recipes\.mine\.base: 'plan' .* did you mean 'plain'\?$"),
        ({"mine": {"base": 3}, "plain": PLAIN}, r"^recipes\.mine\.base: expected the name of a recipe, found 3$"),
        ({"mine": {"base": "mine"}}, r"^recipes\.mine\.base: bases form a circle, mine → mine; take one of them out$"),
        (
            {"a": {"base": "b"}, "b": {"base": "c"}, "c": {"base": "b"}},
            r"^recipes\.c\.base: bases form a circle, b → c → b;",
        ),
    ],
)
def test_what_is_no_base_is_refused(recipes: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        with_bases(recipes)


@pytest.mark.parametrize("recipe", [3, None, {"stages": 3}, {"stages": {"main": 3}}, {"stages": {"main": {"init": 3}}}])
def test_what_is_no_recipe_is_left_to_validation(recipe: Any) -> None:
    assert with_bases({"mine": recipe})["mine"] == recipe
    assert with_bases({"mine": recipe, "other": {"base": "mine", "title": "x"}})["other"]["title"] == "x"
