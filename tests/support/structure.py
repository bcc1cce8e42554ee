"""Counts of the package's structure: sizes, levels and circles of imports.

python tests/support/structure.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "udaseg"
LONG_FILE, LONG_FUNCTION = 250, 60  # lines from which on one wants a reason


def modules() -> dict[str, ast.Module]:
    """Every module by its path below the package."""
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[str]:
    """Parts (packages or root modules) that a module imports, but for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "udaseg":
            inner = (node.module or "").split(".")[1:]
            yield from inner[:1] or [alias.name for alias in node.names if not alias.name.startswith("_")]
        yield from imports(node)


def arrows() -> dict[str, set[str]]:
    """Which part imports which others."""
    found: dict[str, set[str]] = {}
    for path, tree in modules().items():
        part = path.split("/")[0].removesuffix(".py")
        if part != "__init__":
            found.setdefault(part, set()).update(set(imports(tree)) - {part})
    return found


def circles(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs of parts that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = found.get(waiting.pop(), set()) - seen
            seen |= fresh
            waiting += fresh
        return seen

    reach = {part: reached(part) for part in found}
    return [(one, other) for one in found for other in reach[one] if one < other and one in reach.get(other, set())]


def levels(found: dict[str, set[str]]) -> dict[str, int]:
    """The level of each part, 1 at the bottom: one above the highest that it imports. Needs the absence of circles."""
    made: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in made:
            made[part] = 1 + max((level(other) for other in found.get(part, ())), default=0)
        return made[part]

    for part in found:
        level(part)
    return made


def long_files() -> dict[str, int]:
    """Files with more lines than `LONG_FILE`, and how many."""
    lines = {path: len((SOURCE / path).read_text().splitlines()) for path in modules()}
    return {path: count for path, count in lines.items() if count > LONG_FILE}


def long_functions() -> dict[str, int]:
    """Functions with more lines than `LONG_FUNCTION`, and how many."""
    return {
        f"{path}:{node.name}": length
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONG_FUNCTION
    }


def report() -> Iterator[str]:
    """The counts, a line each."""
    found = arrows()
    lines: dict[str, int] = {}
    for path in modules():
        part = path.split("/")[0] if "/" in path else "(root)"
        lines[part] = lines.get(part, 0) + len((SOURCE / path).read_text().splitlines())
    yield f"lines of Python: {sum(lines.values())}"
    yield from (f"  {part:10} {count}" for part, count in sorted(lines.items(), key=lambda entry: -entry[1]))
    yield f"modules at the root: {sum('/' not in path for path in modules())}"
    yield f"packages and root modules: {len(found)}, arrows between them: {sum(map(len, found.values()))}"
    yield f"circles: {circles(found)}"
    yield f"levels of imports: {max(levels(found).values())}"
    yield f"files over {LONG_FILE} lines: {long_files()}"
    yield f"functions over {LONG_FUNCTION} lines: {long_functions()}"


if __name__ == "__main__":
    print("\n".join(report()))
