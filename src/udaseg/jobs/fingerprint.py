"""A fingerprint of the code that a kind of job runs: a Merkle tree over its modules and what they import.

The digest of a module covers its syntax without comments, docstrings and positions; an import of our own stands in it
as the digest of what is imported. Names and places of modules are in no digest, so that a move changes no address.
The walk over the syntax tree is our own because `ast.dump` differs between Python versions.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Packages and modules whose code decides what a job computes. The others decide where jobs lie and how they are
# started; parameters are hashed by value.
COUNTED = (
    *("data", "engine", "methods", "nets", "offline", "ops", "reports", "seeding", "types"),
    *("machine.cpu", "machine.environment", "runs.counts"),
)
DIGITS = 16
_digests: dict[Path, str] = {}  # of modules seen so far: files are read once a process


@functools.cache
def fingerprint(*entries: str) -> str:
    """Hexadecimal digest of the modules `entries` (such as "engine.train") and of all that they import."""
    digests = sorted(_digest(entry, ()) for entry in entries)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:DIGITS]


def reread() -> None:
    """Let the next fingerprint read the source files again: they may have been edited since."""
    fingerprint.cache_clear()
    _digests.clear()


def _digest(module: str, importers: tuple[str, ...]) -> str:
    """Digest of a module (a name below the package), by content alone; `importers` led here.

    Raises:
        ValueError: modules import each other in a circle.
    """
    if module in importers:
        raise ValueError(f"modules import each other: {' → '.join([*importers[importers.index(module) :], module])}")
    path = _path(module)
    if path in _digests:
        return _digests[path]
    tree = ast.parse(path.read_text())
    names, modules = _imports(tree, (*importers, module))
    digest = hashlib.sha256("\n".join([*sorted(names), *_words(tree, modules)]).encode())
    # Templates and tables that a module reads lie beside it and begin with its name: page.html.j2, camvid_files.csv.
    for beside in sorted(path.parent.glob(f"{path.stem}[._]*")):
        if beside.is_file() and beside.suffix != ".py":
            digest.update(beside.read_bytes())
    _digests[path] = digest.hexdigest()
    return _digests[path]


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_counted(module: str) -> bool:
    return any(module == entry or module.startswith(f"{entry}.") for entry in COUNTED)


def _imports(tree: ast.Module, importers: tuple[str, ...]) -> tuple[set[str], dict[str, str]]:
    """What a module imports of this package: names out of modules, and modules as a whole by the name they get here.

    Only `from udaseg.… import …` is used here (a test holds it); what is not counted stands without a digest.
    """
    names: set[str] = set()
    modules: dict[str, str] = {}
    for node in _nodes(tree):
        if not isinstance(node, ast.ImportFrom) or not _is_ours(node):
            continue
        base = (node.module or "").partition(".")[2]
        for alias in node.names:
            inner = f"{base}.{alias.name}" if base else alias.name
            if _path(inner).is_file():
                modules[alias.asname or alias.name] = _digest(inner, importers) if _is_counted(inner) else ""
            else:
                names.add(f"{_digest(base, importers) if _is_counted(base) else ''} {alias.name} {alias.asname or ''}")
    return names, modules


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, in no particular order, but those that are there for type checkers alone."""
    waiting = [node]
    while waiting:
        children = [child for child in ast.iter_child_nodes(waiting.pop()) if not _is_for_types(child)]
        yield from children
        waiting += children


def _is_ours(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "udaseg"


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _words(node: ast.AST, modules: Mapping[str, str]) -> Iterator[str]:
    """The tree's node types, field names and constants in order; no positions, docstrings, own imports, empty fields.

    A module of ours that the code names (`losses.resize`) stands as its digest: `modules`.
    """
    if isinstance(node, ast.Name) and node.id in modules:
        yield f"module {modules[node.id]}"
        return
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value = [part for part in value if not (_is_ours(part) or _is_for_types(part))]
        if name == "body" and isinstance(value, list):
            value = [part for part in value if not _is_docstring(part)]
        if name in {"ctx", "kind", "type_comment", "type_ignores"} or value in (None, []):
            continue
        yield name
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _words(part, modules)
            else:
                yield repr(part)
