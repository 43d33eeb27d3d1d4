"""Writes the README of the chart from the comments in its ``values.yaml``: ``python charts/readme.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent / "servingplan"
_WHOLE = ("labels", "podSecurityContext", "resources")
"""Maps whose keys are Kubernetes' or other people's."""
_HEAD = """\
# The chart `servingplan`

Generated from `values.yaml` by `make chart-readme`; do not edit.

{description}

`docs/install.md` says how to install it, and `docs/uninstall.md` how to upgrade and uninstall it. A value that is not listed
here is refused.

"""


@dataclass(frozen=True)
class Value:
    """One value: a leaf of ``values.yaml``, or a map that is empty there or has other people's keys."""

    path: str
    default: Any
    comment: str


def values(text: str) -> Iterator[Value]:
    """The values of a ``values.yaml`` in their order, each with the comment above it. A comment of a map is its first key's."""
    root = yaml.compose(text)
    lines = text.splitlines()
    yield from _below(root, "", lines, "")


def _below(node: yaml.Node, path: str, lines: list[str], inherited: str) -> Iterator[Value]:
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        inner = f"{path}.{key.value}" if path else key.value
        comment = " ".join(part for part in (inherited, _comment(lines, key.start_mark.line)) if part)
        inherited = ""
        if isinstance(value, yaml.MappingNode) and value.value and key.value not in _WHOLE:
            yield from _below(value, inner, lines, comment)
        else:
            yield Value(inner, yaml.safe_load(yaml.serialize(value)), comment)


def _comment(lines: list[str], line: int) -> str:
    """The comment that ends above a line, as one paragraph; an indented line of it is a line of a list."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("#").rstrip())
    text, listed = "", False
    for one in found:
        before, listed = listed, one.startswith("   ")
        text += ("<br>" if before or listed else " ") + " ".join(one.split())
    return text.strip()


def readme() -> str:
    """The README."""
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())["description"]
    rows = ["| value | default | |", "|---|---|---|"]
    for one in values((CHART / "values.yaml").read_text()):
        cells = [f"`{one.path}`", f"`{json.dumps(one.default)}`", one.comment]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return _HEAD.format(description=description) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
