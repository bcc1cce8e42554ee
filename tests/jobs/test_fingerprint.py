"""A code fingerprint changes with what a job computes, and with nothing else."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from udaseg.jobs import fingerprint as module
from udaseg.jobs.fingerprint import fingerprint, reread
from udaseg.methods import METHODS
from udaseg.runs.kinds import KINDS


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, on which fingerprints are taken."""
    copy = tmp_path / "udaseg"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    reread()
    yield copy
    reread()


DATASETS = ("toytown", "objects", "folder", "camvid")


def entries() -> dict[str, list[str]]:
    """The modules whose code decides each kind of job, one by one for every method and kind of data set."""
    found = {}
    for name, kind in KINDS.items():
        variants = {"train": METHODS, "prepare": DATASETS}.get(name, ("",))
        for variant in variants if kind.code else ():
            method = METHODS.module(variant) if name == "train" else ""
            spec = SimpleNamespace(dataset={"kind": variant})
            found[f"{name} {variant}".strip()] = [module.format(spec=spec, method=method) for module in kind.code]
    return found


def everything() -> dict[str, str]:
    """The fingerprint of every kind of job."""
    reread()
    files = sorted(path for path in module.PACKAGE.rglob("*") if path.is_file())
    return dict(_everything(tuple((path.relative_to(module.PACKAGE), path.read_bytes()) for path in files)))


@functools.lru_cache(maxsize=8)  # the package untouched, and as the last test left it
def _everything(state: tuple[tuple[Path, bytes], ...]) -> dict[str, str]:
    """Taken once for each state of the package's files."""
    return {name: fingerprint(*modules) for name, modules in entries().items()}


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
        reread()
        seen.add(fingerprint("ops.added"))
    assert len(seen) == 7


def test_what_all_methods_use_changes_all_trainings(package: Path) -> None:
    for file in ("engine/train.py", "methods/base.py", "nets/base.py", "ops/losses.py", "seeding.py"):
        before = everything()
        (package / file).write_text((package / file).read_text() + "\nADDED = 1\n")
        assert changed(before) >= trainings(), file


def test_the_report_trains_nothing_and_evaluates_nothing(package: Path) -> None:
    before = everything()
    edit(package / "reports" / "page" / "page.html.j2", "<", "<!-- new --><")
    (package / "reports" / "tables" / "main.py").write_text(
        (package / "reports" / "tables" / "main.py").read_text() + "\nADDED = 1\n"
    )
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
    path = package / "data" / "datasets" / "camvid_files.csv"
    path.write_text(path.read_text() + "one more line\n")
    assert changed(before) == {"prepare camvid"}


def test_plumbing_changes_nothing(package: Path) -> None:
    before = everything()
    download = [f"data/archives/{name}.py" for name in ("download", "unpack", "fetch")]
    contact_sheet = ("data/sets/contact_sheet.py", "data/sets/prepare.py")
    plumbing = ("cli", "config", "jobs", "study", "tracking", "errors.py", "machine/devices.py", "runs/folder.py")
    for part in (*plumbing, *download, *contact_sheet):
        for path in [package / part] if part.endswith(".py") else (package / part).glob("*.py"):
            path.write_text(path.read_text() + "\nADDED = 1\n")
    assert changed(before) == set()


def move(package: Path, old: str, new: str) -> None:
    """Move a module and name it anew wherever it is imported, with the import statements in another order."""
    target = package.joinpath(*new.split(".")).with_suffix(".py")
    target.parent.mkdir(exist_ok=True)
    package.joinpath(*old.split(".")).with_suffix(".py").rename(target)
    base, _, name = old.rpartition(".")
    new_base, _, new_name = new.rpartition(".")
    for path in package.rglob("*.py"):
        text = path.read_text().replace(f"from udaseg.{old} import", f"from udaseg.{new} import")
        whole = re.compile(rf"^( *)from udaseg\.{re.escape(base)} import {name}( as \w+)?$", re.MULTILINE)
        if found := whole.search(text):
            text = whole.sub(rf"\1from udaseg.{new_base} import {new_name}\2", text)
            text = text if found[2] else re.sub(rf"\b{name}\.", f"{new_name}.", text)
        path.write_text(text)


def shuffle_imports(path: Path) -> None:
    """Our own import statements at the top of a module, in reverse."""
    lines = path.read_text().split("\n")
    places = [index for index, line in enumerate(lines) if re.match(r"from udaseg\S* import [^(]+$", line)]
    turned = [lines[index] for index in reversed(places)]
    for index, line in zip(places, turned, strict=True):
        lines[index] = line
    path.write_text("\n".join(lines))


def test_a_move_or_a_new_name_of_modules_changes_nothing(package: Path) -> None:
    # one that counts by its place, one imported as a module, one deep in the closure, one that does not count
    (package / "ops" / "added.py").write_text("ADDED = 1\n")
    path = package / "methods" / "dann.py"
    path.write_text(path.read_text() + "\n\ndef late():\n    from udaseg.ops import added\n    return added.ADDED\n")
    before = everything()
    move(package, "ops.added", "nets.brought")
    move(package, "ops.losses", "ops.loss_terms")
    move(package, "data.batches.views", "data.geometry")
    move(package, "engine.metrics", "offline.metrics")
    move(package, "data.datasets.toytown.patches", "data.patches")
    move(package, "errors", "problems")
    for path in package.rglob("*.py"):
        shuffle_imports(path)
    assert changed(before) == set()
    edit(package / "nets" / "brought.py", "1", "2")
    assert changed(before) == {"train dann"}


def test_a_constant_three_imports_away_counts(package: Path) -> None:
    for number, imported in (("one", "two"), ("two", "three")):
        (package / "ops" / f"{number}.py").write_text(f"from udaseg.ops.{imported} import ADDED\n\nADDED\n")
    (package / "ops" / "three.py").write_text("ADDED = 1\n")
    path = package / "methods" / "dann.py"
    path.write_text("from udaseg.ops.one import ADDED\n" + path.read_text())
    before = everything()
    (package / "ops" / "three.py").write_text('"""A docstring."""\n\nADDED = 1  # a comment\n')
    assert changed(before) == set()
    (package / "ops" / "three.py").write_text("ADDED = 2\n")
    assert changed(before) == {"train dann"}


@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13"])
def test_every_supported_python_takes_the_same_fingerprints(python: str) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from udaseg.jobs.fingerprint import fingerprint;"
        "print(json.dumps([fingerprint(*entries) for entries in json.loads(sys.argv[2])]))"
    )
    found = entries().values()
    command = [python, "-I", "-c", code, str(module.PACKAGE.parent), json.dumps([*found])]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        if isinstance(error, subprocess.CalledProcessError) and "Traceback" in error.stderr:
            raise AssertionError(error.stderr) from None
        pytest.skip(f"{python} is not installed")
    assert json.loads(answer.stdout) == [fingerprint(*each) for each in found]


def test_a_circle_of_imports_is_named(package: Path) -> None:
    for one, other in (("one", "two"), ("two", "one")):
        (package / "ops" / f"{one}.py").write_text(f"from udaseg.ops.{other} import ADDED\n")
    with pytest.raises(ValueError, match=r"ops\.one → ops\.two → ops\.one"):
        fingerprint("ops.one")


def test_the_kinds_of_data_are_apart(package: Path) -> None:
    before = everything()
    for file, expected in (("toytown/look", "toytown"), ("objects", "objects")):
        path = package / "data" / "datasets" / f"{file}.py"
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
