"""How much of the planner's house a reader must know: names that its packages export to each other, and lines.

    python -m benchmarks.concepts

A name counts once for each package of `solve/` that defines it, if a module outside that package imports it, or reads it from a
module that it imported. Modules directly in `solve/` are the room itself: what they use counts, what they define does not.
Lines are those of all modules but the baselines, blank ones and docstrings included.
"""

import ast
from collections import defaultdict
from pathlib import Path

ROOM = Path(__file__).parents[1] / "operator" / "servingplan" / "solve"
PREFIX = ("servingplan", "solve")


def exported() -> dict[str, set[str]]:
    """Names by the package that defines them."""
    names: dict[str, set[str]] = defaultdict(set)
    for file in sorted(ROOM.rglob("*.py")):
        inside = file.relative_to(ROOM).parts[:-1]
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            path = tuple((node.module or "").split("."))
            if path[:2] != PREFIX:
                continue
            for alias in node.names:
                full = (*path[2:], alias.name)
                if not (ROOM / full[0]).is_dir() or full[:1] == inside[:1]:
                    continue
                is_module = ROOM.joinpath(*full).with_suffix(".py").exists()
                names[full[0]] |= _read_from(tree, alias.asname or alias.name) if is_module else {alias.name}
    return names


def _read_from(tree: ast.Module, module: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }


def lines() -> int:
    """Lines of all modules but the baselines."""
    files = (file for file in ROOM.rglob("*.py") if "baselines" not in file.parts)
    return sum(len(file.read_text().splitlines()) for file in files)


if __name__ == "__main__":
    found = exported()
    for package, names in sorted(found.items()):
        print(f"{package}: {len(names)}  {', '.join(sorted(names))}")
    print(f"{sum(map(len, found.values()))} names, {lines()} lines")
