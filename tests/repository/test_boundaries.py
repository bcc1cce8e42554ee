"""Which part of udaseg may import what: read from the syntax trees, and for the light commands from what is loaded.

`ops` are pure tensor functions, `nets` may use them, a method composes both and knows neither files nor other methods,
the engine knows methods only through their base. What a user asks for often (help, reports) must not load torch.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.structure import arrows, circles

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in (SOURCE / "udaseg").rglob("*.py"))
# From the bottom up: each imports only what stands before it.
LEVELS = (
    *("errors", "seeding", "types", "validation", "config", "runs", "machine"),
    *("ops", "nets", "data", "methods", "engine", "offline"),
    *("study", "jobs", "reports", "archive", "estimate", "verify", "tracking", "cli"),
)
ROOT_MODULES = {"__init__", "errors", "seeding", "types", "validation"}
PURE = ("__future__", "collections", "contextlib", "dataclasses", "enum", "functools", "itertools", "math", "typing")
BATCH = tuple(f"udaseg.data.batches.streams.{name}" for name in ("Batch", "Labelled", "Target"))
# Imported without torch, and without whatever their own imports would bring in.
LIGHT = (
    *("udaseg.runs", "udaseg.reports", "udaseg.config", "udaseg.machine.devices", "udaseg.cli.main"),
    "udaseg.verify.certificate",
)


@dataclass(frozen=True)
class Import:
    """One imported thing by its full dotted name. `lazy`: inside a function. `typing`: under `if TYPE_CHECKING`."""

    name: str
    line: int
    lazy: bool
    typing: bool

    def within(self, prefixes: tuple[str, ...]) -> bool:
        return any(self.name == prefix or self.name.startswith(f"{prefix}.") for prefix in prefixes)


@dataclass(frozen=True)
class Rule:
    """What a part may import of udaseg, for types only, and of everything else (None: anything)."""

    udaseg: tuple[str, ...]
    types: tuple[str, ...] = ()
    others: tuple[str, ...] | None = None


METHOD = (
    *("udaseg.methods.base", "udaseg.nets", "udaseg.ops", "udaseg.errors", "udaseg.seeding", "udaseg.types"),
    *BATCH,
)
# A method knows no other, but for the host that it is plugged into and the stage that it shares knobs or parts with.
STANDS_ON = {
    "proda/distill": ("proda.proda",),
    "diga/warmup": ("diga.translation",),
    "diga/diga": ("diga.warmup",),
    "self_training/daformer": ("self_training.dacs",),
    "self_training/contrast": ("self_training.dacs", "self_training.contrast_terms"),
    "self_training/pipa": ("self_training.daformer", "self_training.contrast"),
    "self_training/dacs_pipa": ("self_training.dacs", "self_training.contrast"),
    "self_training/cpsl": ("self_training.self_labelling", "proda.proda"),
    "self_training/dacs_cpsl": ("self_training.dacs", "self_training.self_labelling"),
}
# The longest matching beginning of a file's path decides. Parts that are not here are held by the tests below only.
RULES = {
    "udaseg/ops/": Rule(("udaseg.ops", "udaseg.types"), others=("torch", "torchvision", *PURE)),
    "udaseg/nets/": Rule(
        ("udaseg.nets", "udaseg.ops", "udaseg.errors", "udaseg.seeding", "udaseg.types"), types=("udaseg.config",)
    ),
    "udaseg/methods/": Rule(METHOD, others=("torch", "pydantic", *PURE)),
    **{
        f"udaseg/methods/{name}.py": Rule(
            (*METHOD, *(f"udaseg.methods.{other}" for other in others)), others=("torch", "pydantic", *PURE)
        )
        for name, others in STANDS_ON.items()
    },
    "udaseg/methods/base.py": Rule(
        ("udaseg.nets", "udaseg.ops", "udaseg.errors", "udaseg.seeding", "udaseg.types"),
        types=("udaseg.config", *BATCH),
        others=("torch", "pydantic", *PURE),
    ),
    "udaseg/methods/knobs.py": Rule((), others=("re", "pydantic", *PURE)),
    "udaseg/methods/__init__.py": Rule(("udaseg.errors",), types=("udaseg.methods.base",), others=("importlib", *PURE)),
}


def read_imports(file: str, text: str) -> list[Import]:
    """All imports of a module, `file` being its path below src. `from a import b` counts as `a.b`."""
    package = file.split("/")[:-1]

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy, typing)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{start}.{alias.name}", node.lineno, lazy, typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, lazy, True)
            for child in node.orelse:
                yield from walk(child, lazy, typing)
        else:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside, typing)

    return list(walk(ast.parse(text), False, False))


def violations(file: str, text: str) -> list[str]:
    """One line per import that the file's part may not have."""
    beginnings = [beginning for beginning in RULES if file.startswith(beginning)]
    rule = RULES[max(beginnings, key=len)] if beginnings else None
    found = []
    for entry in read_imports(file, text):
        place = f"src/{file}:{entry.line} imports {entry.name}"
        if entry.within(("mlflow",)) and (not file.startswith("udaseg/tracking/") or not (entry.lazy or entry.typing)):
            found.append(f"{place}: only udaseg/tracking may, inside its functions or for types")
        if entry.within(("torch", "torchvision")) and file.startswith(("udaseg/runs/", "udaseg/reports/")):
            found.append(f"{place}: run folders and reports are read without torch")
        cli_may = entry.lazy or entry.within(("udaseg.errors", "udaseg.__version__"))
        if file == "udaseg/cli/main.py" and entry.within(("udaseg",)) and not cli_may:
            found.append(f"{place}: the command line imports udaseg's modules inside the functions that need them")
        engine_may = entry.within(("udaseg.methods.base", "udaseg.methods.METHODS"))
        if file.startswith("udaseg/engine/") and entry.within(("udaseg.methods",)) and not engine_may:
            found.append(f"{place}: the engine knows udaseg.methods.base and the look-up METHODS only")
        if rule is None:
            continue
        own = entry.within(("udaseg",))
        if own and not entry.within(rule.udaseg) and not (entry.typing and entry.within(rule.types)):
            found.append(f"{place}: of udaseg it may import {rule.udaseg}, and for types {rule.types}")
        if not own and rule.others is not None and not entry.within(rule.others):
            found.append(f"{place}: outside udaseg it may import {rule.others}")
    return found


def module_file(name: str) -> str | None:
    """The file of the longest beginning of a dotted name that is a module of ours."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = "/".join(parts[:length])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if file in FILES:
                return file
    return None


def loaded_chain(start: str, unwanted: str) -> list[str] | None:
    """How importing the file `start` comes to load the package `unwanted`: a chain of files, or None if it does not."""
    waiting, seen = [[start]], {start}
    while waiting:
        chain = waiting.pop(0)
        file = chain[-1]
        folders = file.split("/")[:-1]
        parents = [f"{'/'.join(folders[:length])}/__init__.py" for length in range(1, len(folders) + 1)]
        entries = [
            entry for entry in read_imports(file, (SOURCE / file).read_text()) if not (entry.lazy or entry.typing)
        ]
        if any(entry.within((unwanted,)) for entry in entries):
            return chain
        for following in [*parents, *(module_file(entry.name) for entry in entries if entry.within(("udaseg",)))]:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append([*chain, following])
    return None


def part_of(name: str) -> str:
    """The package or root module of a dotted name below udaseg."""
    return name.split(".")[1]


def test_a_newcomer_sees_the_pipeline_in_the_folder_list() -> None:
    root = {path.stem for path in (SOURCE / "udaseg").glob("*.py")}
    packages = {path.parent.name for path in (SOURCE / "udaseg").glob("*/__init__.py")}
    assert root == ROOT_MODULES
    assert packages == set(LEVELS) - ROOT_MODULES


def test_no_package_imports_upwards() -> None:
    """So that there are no circles either. Imports for types alone do not count."""
    wrong = [
        f"src/{file}:{entry.line} imports {entry.name}"
        for file in FILES
        for entry in read_imports(file, (SOURCE / file).read_text())
        if entry.within(("udaseg",)) and not entry.typing and entry.name != "udaseg.__version__"
        if LEVELS.index(part_of(entry.name)) > LEVELS.index(part_of(file.removesuffix(".py").replace("/", ".")))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_packages_import_each_other() -> None:
    assert circles(arrows()) == []


def test_modules_are_imported_by_name_from_where_they_are() -> None:
    """`import udaseg.…` and relative imports are not seen by the code's fingerprint."""
    statements = [
        (file, node)
        for file in FILES
        for node in ast.walk(ast.parse((SOURCE / file).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not [file for file, node in statements if isinstance(node, ast.ImportFrom) and node.level]
    names = [(file, alias.name) for file, node in statements if isinstance(node, ast.Import) for alias in node.names]
    assert not [file for file, name in names if name.split(".")[0] == "udaseg"]


@pytest.mark.parametrize("file", FILES)
def test_every_file_keeps_its_boundary(file: str) -> None:
    assert not (found := violations(file, (SOURCE / file).read_text())), "\n" + "\n".join(found)


def test_the_engine_looks_methods_up_in_one_place() -> None:
    places = [
        f"src/{file}:{entry.line}"
        for file in FILES
        if file.startswith("udaseg/engine/")
        for entry in read_imports(file, (SOURCE / file).read_text())
        if entry.within(("udaseg.methods.METHODS",)) and not entry.typing
    ]
    assert len(places) <= 1, f"METHODS is imported in {places}"


def test_nothing_that_trains_can_reach_the_judge_of_pseudo_labels() -> None:
    """Ground truth of the target's training images is read in `offline.quality`, which only a job of its kind runs."""
    users = [
        file
        for file in FILES
        for entry in read_imports(file, (SOURCE / file).read_text())
        if entry.within(("udaseg.offline",)) and not file.startswith("udaseg/offline/")
    ]
    assert not users
    assert [file for file in FILES if "offline.quality" in (SOURCE / file).read_text()] == ["udaseg/runs/kinds.py"]


@pytest.mark.parametrize("unwanted", ["torch", "torchvision", "mlflow"])
@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str, unwanted: str) -> None:
    path = module.replace(".", "/")
    files = [file for file in FILES if file == f"{path}.py" or file.startswith(f"{path}/")]
    assert files, f"{module} does not exist"
    chains = [chain for file in files if (chain := loaded_chain(file, unwanted))]
    assert not chains, f"importing {module} loads {unwanted}: " + "; ".join(" → ".join(chain) for chain in chains)


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("udaseg/ops/losses.py", "import torch\nimport numpy", "ops/losses.py:2 imports numpy"),
        ("udaseg/ops/losses.py", "def f():\n    from udaseg import nets", "imports udaseg.nets"),
        ("udaseg/ops/losses.py", "from .. import seeding", "imports udaseg.seeding"),
        (
            "udaseg/nets/build.py",
            "from udaseg.data.batches.views import Geometry",
            "imports udaseg.data.batches.views.Geometry",
        ),
        (
            "udaseg/nets/build.py",
            "from udaseg.config.training import Network",
            "imports udaseg.config.training.Network",
        ),
        ("udaseg/methods/dann.py", "from udaseg.methods.adabn import AdaBN", "imports udaseg.methods.adabn.AdaBN"),
        (
            "udaseg/methods/dann.py",
            "from udaseg.data.batches.streams import loader",
            "imports udaseg.data.batches.streams.loader",
        ),
        ("udaseg/methods/dann.py", "import json", "imports json"),
        ("udaseg/methods/dann.py", "import logging", "imports logging"),
        ("udaseg/methods/dann.py", "from pathlib import Path", "imports pathlib.Path"),
        ("udaseg/engine/train.py", "from udaseg.methods.dann import DANN", "imports udaseg.methods.dann.DANN"),
        ("udaseg/reports/page/page.py", "def f():\n    import torch.nn", "imports torch.nn"),
        ("udaseg/runs/files.py", "from torch import Tensor", "imports torch.Tensor"),
        ("udaseg/engine/train.py", "def f():\n    import mlflow", "imports mlflow"),
        ("udaseg/tracking/store.py", "import mlflow", "imports mlflow"),
        ("udaseg/cli/main.py", "from udaseg.jobs import plan", "imports udaseg.jobs.plan"),
    ],
)
def test_a_breach_is_seen(file: str, text: str, part: str) -> None:
    assert part in "\n".join(violations(file, text))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("udaseg/ops/losses.py", "import math\nimport torch.nn.functional as F\nfrom .schedules import poly"),
        (
            "udaseg/nets/build.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from udaseg.config.training import Network",
        ),
        (
            "udaseg/methods/dann.py",
            "from udaseg.data.batches.streams import Batch\nfrom udaseg.methods.base import Method",
        ),
        ("udaseg/tracking/store.py", "def f():\n    import mlflow"),
        ("udaseg/cli/main.py", "from udaseg.errors import UserError\ndef f():\n    from udaseg.jobs.plan import build"),
    ],
)
def test_what_is_allowed_passes(file: str, text: str) -> None:
    assert violations(file, text) == []


def loaded_by(code: str) -> list[str]:
    """Which of torch and mlflow a fresh interpreter has loaded after `code`."""
    probe = f"import sys\n{code}\nprint('loaded:', *(name for name in ('torch', 'mlflow') if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()[-1].split()[1:]


def test_help_loads_neither_torch_nor_mlflow() -> None:
    code = """
sys.argv = ["udaseg", "--help"]
from udaseg.cli.main import main
try:
    status = main()
except SystemExit as end:
    status = end.code
assert not status, status
"""
    assert loaded_by(code) == []


def test_reports_load_neither_torch_nor_mlflow() -> None:
    code = """
import importlib, pkgutil, udaseg.reports
names = [module.name for module in pkgutil.walk_packages(udaseg.reports.__path__, "udaseg.reports.")]
assert names
for name in names:
    importlib.import_module(name)
"""
    assert loaded_by(code) == []


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_by("import torch") == ["torch"]
