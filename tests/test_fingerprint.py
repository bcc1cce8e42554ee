"""A code fingerprint changes with what a job computes, and with nothing else."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from udaseg import fingerprint as module
from udaseg.fingerprint import PLUMBING, fingerprint
from udaseg.methods import METHODS


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, on which fingerprints are taken."""
    copy = tmp_path / "udaseg"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget() -> None:
    for cached in (module.fingerprint, module._tree, module._imports, module._module_digest):
        cached.cache_clear()


def everything() -> dict[str, str]:
    """The fingerprint of every kind of job."""
    forget()
    found = {f"train {name}": fingerprint("engine.train", f"methods.{name}") for name in METHODS}
    found |= {f"prepare {kind}": fingerprint("data.prepare", f"data.{kind}") for kind in KINDS}
    found |= {name: fingerprint(f"offline.{name}") for name in ("label", "quality", "translate")}
    return found | {"evaluate": fingerprint("engine.evaluate"), "report": fingerprint("reports.build")}


KINDS = ("toytown", "objects", "folder", "camvid")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def changed(before: dict[str, str]) -> set[str]:
    after = everything()
    return {name for name in before if before[name] != after[name]}


def trainings() -> set[str]:
    return {f"train {name}" for name in METHODS}


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = everything()
    for path in package.rglob("*.py"):
        text = path.read_text()
        path.write_text(
            f'"""Another docstring."""\n\n# a comment\n\n{text}'.replace("\n\n\ndef ", "\n\n\n\n# more\ndef ")
        )
    edit(package / "methods" / "dann.py", "class DANN(Method):", 'class DANN(Method):\n    """Another one."""\n')
    edit(package / "methods" / "dann.py", 'name="dann",', '\n    name=(\n        "dann"  # its name\n    ),')
    assert changed(before) == set()


def test_a_method_is_only_its_own_runs_business(package: Path) -> None:
    before = everything()
    edit(package / "methods" / "dann.py", "1e-4", "2e-4")
    assert changed(before) == {"train dann"}


def test_a_number_or_a_name_or_an_operator_counts(package: Path) -> None:
    seen = set()
    for line in ("x = 1 + 2", "x = 1 + 3", "x = 1 - 3", "y = 1 - 3", "y = 1 - 3.0", "y = 1 - '3'", "y = [1, -3]"):
        (package / "ops" / "added.py").write_text(f"{line}\n")
        forget()
        seen.add(fingerprint("ops.added"))
    assert len(seen) == 7


def test_what_all_methods_use_changes_all_trainings(package: Path) -> None:
    for file in ("engine/train.py", "methods/base.py", "nets/base.py", "ops/losses.py", "seeding.py"):
        before = everything()
        (package / file).write_text((package / file).read_text() + "\nADDED = 1\n")
        assert changed(before) >= trainings(), file


def test_the_report_trains_nothing_and_evaluates_nothing(package: Path) -> None:
    before = everything()
    edit(package / "reports" / "page.html.j2", "<", "<!-- new --><")
    (package / "reports" / "tables.py").write_text((package / "reports" / "tables.py").read_text() + "\nADDED = 1\n")
    assert changed(before) == {"report"}


def test_passes_over_a_set_are_apart_and_train_nothing(package: Path) -> None:
    for name in ("label", "quality", "translate"):
        before = everything()
        path = package / "offline" / f"{name}.py"
        path.write_text(path.read_text() + "\nADDED = 1\n")
        assert changed(before) == {name}


def test_a_translator_is_the_business_of_those_that_use_it(package: Path) -> None:
    before = everything()
    edit(package / "ops" / "translation.py", "import", "ADDED = 1\nimport")
    assert changed(before) == {"train diga_warmup", "train diga", "translate"}


def test_files_that_a_module_reads_count(package: Path) -> None:
    before = everything()
    path = package / "data" / "camvid_files.csv"
    path.write_text(path.read_text() + "one more line\n")
    assert changed(before) == {"prepare camvid"}


def test_plumbing_changes_nothing(package: Path) -> None:
    before = everything()
    for name in PLUMBING:
        path = package.joinpath(*name.split(".")).with_suffix(".py")
        path.write_text(path.read_text() + "\nADDED = 1\n")
    assert changed(before) == set()


def test_the_kinds_of_data_are_apart(package: Path) -> None:
    before = everything()
    for file, expected in (("toytown_look", "toytown"), ("objects", "objects")):
        path = package / "data" / f"{file}.py"
        path.write_text(path.read_text() + "\nADDED = 1\n")
        assert f"prepare {expected}" in changed(before)
        assert "prepare folder" not in changed(before)


def test_imports_inside_functions_are_followed(package: Path) -> None:
    (package / "ops" / "added.py").write_text("ADDED = 1\n")
    path = package / "methods" / "dann.py"
    path.write_text(path.read_text() + "\n\ndef late():\n    from udaseg.ops import added\n    return added\n")
    before = everything()
    (package / "ops" / "added.py").write_text("ADDED = 2\n")
    assert changed(before) == {"train dann"}
