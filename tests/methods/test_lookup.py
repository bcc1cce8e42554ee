"""METHODS resolves one line a method, and says which line is wrong."""

from pathlib import Path

import pytest

from udaseg.errors import UserError
from udaseg.methods import METHODS, Lookup
from udaseg.methods.dann import DANN


def test_a_line_is_resolved_when_it_is_asked_for() -> None:
    lookup = Lookup({"dann": "udaseg.methods.dann.DANN", "wrong": "udaseg.methods.nowhere.Nothing"})
    assert list(lookup) == ["dann", "wrong"] and len(lookup) == 2 and "dann" in lookup and "cbst" not in lookup
    assert lookup["dann"] is DANN
    assert lookup.module("wrong") == "methods.nowhere"


@pytest.mark.parametrize("name", METHODS)
def test_every_line_names_its_method(name: str) -> None:
    assert METHODS[name].SPEC.name == name
    assert METHODS[name].__module__ == f"udaseg.{METHODS.module(name)}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("udaseg.methods.nowhere.Nothing", "no module udaseg.methods.nowhere"),
        ("udaseg.methods.dann.DAN", "udaseg.methods.dann has no method DAN"),
        ("udaseg.methods.adabn.AdaBN", "has the name 'adabn'"),
        ("DANN", "name the file and its class"),
        ("udaseg.nowhere.dann.DANN", "no module udaseg.nowhere.dann"),
        ("udaseg.methods.dann.Annotated", "has no method Annotated"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(UserError, match=f'"dann": "{line}".*{message}'):
        Lookup({"dann": line})["dann"]


def test_an_import_that_fails_within_the_method_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_method.py").write_text("import not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        Lookup({"toy": "toy_method.Toy"})["toy"]
