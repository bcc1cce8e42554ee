"""A fingerprint of the code that a kind of job runs: its modules and all that they import, without plumbing.

Comments, docstrings and layout do not count, so that only a change of what is computed makes a new run. The walk over
the syntax tree is our own because `ast.dump` differs between Python versions.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent
# Where jobs lie and how they are started says nothing about what they compute; parameters are hashed by value, and what
# is fetched is checked file by file. The contact sheet is for people: a nicer one makes no new data set.
PLUMBING = {
    "cli", "config", "data.contact", "data.fetch", "devices", "drafts", "driver", "errors", "fingerprint",
    "interrupts", "jobs", "parameters", "plan", "refusals", "runs", "specs", "study_verbs",
    "tracking", "validation", "verbs",
}  # fmt: skip


@functools.cache
def fingerprint(*entries: str) -> str:
    """Hexadecimal digest over the import closure of the modules `entries` (such as "engine.train")."""
    digest = hashlib.sha256()
    for module in sorted(_closure(entries)):
        digest.update(f"{module}={_module_digest(_path(module))}\n".encode())
    return digest.hexdigest()[:16]


def _closure(entries: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += [name for name in _imports(_path(module)) if name not in PLUMBING]
    return found


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of this package that a file imports, at the top or inside a function, as names below the package."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            base = node.module.split(".")[1:]
            # `from udaseg.ops import losses` names a module, `from udaseg.ops.losses import resize` a function in one.
            names |= {".".join([*base, alias.name]) for alias in node.names} | ({".".join(base)} if base else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith(PACKAGE.name + ".")}
    return tuple(sorted(name for name in names if name and _path(name).is_file()))


@functools.cache
def _module_digest(path: Path) -> str:
    digest = hashlib.sha256("\n".join(_words(_tree(path))).encode())
    # Templates and tables that a module reads lie beside it and begin with its name: page.html.j2, camvid_files.csv.
    for beside in sorted(path.parent.glob(f"{path.stem}[._]*")):
        if beside.is_file() and beside.suffix != ".py":
            digest.update(beside.read_bytes())
    return digest.hexdigest()


def _words(node: ast.AST) -> Iterator[str]:
    """The tree's node types, field names and constants in order; no positions, docstrings or empty fields."""
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [child for child in value if not _is_docstring(child)]
        if name in {"ctx", "kind", "type_comment", "type_ignores"} or value in (None, []):
            continue
        yield name
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _words(part)
            else:
                yield repr(part)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
