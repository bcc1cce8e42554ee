"""Each knob and loss weight is described once, in the code, and workflow/methods.yaml is made from that."""

from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field
from support.project import ROOT

from udaseg.cli.main import main
from udaseg.methods import METHODS
from udaseg.methods.base import Knobs
from udaseg.methods.knobs import Knob, knobs
from udaseg.study.method_defaults import FILE, HEADER, WIDTH, defaults_yaml
from udaseg.types import Fidelity, Share


class Example(Knobs):
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of the toy, in the toy's unit. Paper 0.1 (Sec. 3.2);
    released 0.2."""

    form: Fidelity = "paper"
    """Form of the toy.

    paper: a toy that is drawn
        in two lines
    released: none
    """

    sizes: Annotated[tuple[Share, ...], Field(strict=False)] = (0.5, 1.0)
    """Sizes."""

    kind: Literal["big", 3]
    """Kind. Of the toy."""


class Derived(Example):
    rate: Annotated[float, Field(gt=0)] = 0.3


def test_a_description_is_read() -> None:
    rate, form, sizes, kind = knobs(Example)
    assert rate == Knob(
        "rate",
        0.1,
        "float",
        "Learning rate of the toy, in the toy's unit. Paper 0.1 (Sec. 3.2);\nreleased 0.2.",
        "",
        "",
    )
    assert rate.summary == "Learning rate of the toy, in the toy's unit."
    assert (form.description, form.paper, form.released) == (
        "Form of the toy.", "a toy that is drawn in two lines", "none",
    )  # fmt: skip
    assert (form.type, sizes.type, kind.type) == ("paper | released", "[float, ...]", "big | 3")
    assert (sizes.default, kind.default, kind.summary) == ([0.5, 1.0], None, "Kind.")


def test_another_default_keeps_the_description() -> None:
    assert knobs(Derived)[0] == Knob("rate", 0.3, *list(vars(knobs(Example)[0]).values())[2:])


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_and_loss_weight_is_described(name: str) -> None:
    spec = METHODS[name].SPEC
    for knob in [*knobs(spec.Config), *knobs(spec.Weights)]:
        assert knob.description and knob.summary.endswith("."), f"{name}: {knob.name} wants a string under it"
        values = {"paper", "released"} <= set(knob.type.split(" | "))
        assert bool(knob.paper) == bool(knob.released) == values, f"{name}: {knob.name}: `paper: ...`, `released: ...`"


def test_the_file_is_what_the_command_writes() -> None:
    text = (ROOT / FILE).read_text()
    assert text == HEADER + defaults_yaml(), f"{FILE} is not up to date: run `udaseg knobs --write`"
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_file_has_every_default() -> None:
    found = yaml.safe_load((ROOT / FILE).read_text())["methods"]
    assert list(found) == list(METHODS)
    for name, given in found.items():
        spec = METHODS[name].SPEC
        assert given == {"knobs": spec.Config().model_dump(mode="json"), "weights": spec.weights}


class TestCommand:
    def test_prints_the_methods_that_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["knobs", "dann", "cbst"]) == 0
        assert capsys.readouterr().out == defaults_yaml(["dann", "cbst"])

    def test_writes_the_file(self, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(str(tmp_path))
        assert main(["knobs", "--write"]) == 0
        assert FILE.read_text() == (ROOT / FILE).read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(["dan"], "no method 'dan'; did you mean 'dann'"), (["dann", "--write"], "name none")],
    )
    def test_refuses(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["knobs", *arguments]) == 1
        assert message in capsys.readouterr().err
