"""The project's own files, read and parsed once, for the tests that hold the house in order."""

import ast
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "proxy"
# What a checkout holds by hand; everything else in the folder is made (.venv, caches, dist).
TREES: Final = ("proxy", "tests", "benchmarks", "config", "docs", ".ci")


def python_files(*trees: str) -> list[Path]:
    """Every Python file under the named top-level folders, in a fixed order."""
    return sorted(path for tree in trees for path in (ROOT / tree).rglob("*.py") if "out" not in path.parts)


def written_files() -> list[Path]:
    """Every text file somebody wrote: those of the trees, and the single files of the top level."""
    in_trees = (path for tree in TREES for path in (ROOT / tree).rglob("*"))
    on_top = (path for path in ROOT.iterdir() if path.name != ".git")
    made = {"__pycache__", "out"}
    return sorted(path for path in (*in_trees, *on_top) if path.is_file() and not made & set(path.parts))


def name_of(path: Path) -> str:
    """A test id: the path as one would type it."""
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def dotted(node: ast.expr) -> str:
    """`asyncio.create_task` for the expression that says so; empty for anything that is not a dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Each import as (line, dotted name): `from a.b import c` is `a.b.c`, a relative one starts with a dot."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def calls_in(path: Path) -> list[tuple[int, str]]:
    """Each call of a dotted name as (line, name)."""
    return [
        (node.lineno, dotted(node.func))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and dotted(node.func)
    ]
