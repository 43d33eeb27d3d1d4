"""The pages of the documentation, and the commands in them.

A block of shell commands (```sh) stands below one of three marks, which a reader does not see:

* none: the commands need no cluster, and a unit test runs them;
* ``<!-- run: PATH -->``: the test PATH (or several, with commas between) runs them, or does what they do;
* ``<!-- not run: REASON -->``: nothing runs them. ``tests/unit/test_docs.py`` lists these.

``<!-- file: NAME -->`` above a block of another language says that the commands of the page find it under this name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHELL = "sh"
_MARK = re.compile(r"<!-- (run|not run|file): (.+) -->")
_FENCE = re.compile(r" *```(\w*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page below the repository, its line, its language, its mark and its text."""

    page: str
    line: int
    language: str
    mark: tuple[str, str] | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands, each on one line and without its comment."""
        lines = re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()
        merged: list[str] = []
        for line in lines:
            if merged and merged[-1].count("'") % 2:  # a quoted argument goes on
                merged[-1] += "\n" + line
            else:
                merged.append(line)
        stripped = [re.sub(r"\s+# .*$", "", line).strip() for line in merged]
        return [line for line in stripped if line and not line.startswith("#")]


OUTSIDE = ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")
"""The pages of the site that people write and that are not below ``docs/``, without the changelog."""


def pages() -> list[Path]:
    """Those pages and all below ``docs/``, in the order of their names."""
    return [*(REPOSITORY / name for name in OUTSIDE), *sorted((REPOSITORY / "docs").rglob("*.md"))]


def is_generated(page: Path) -> bool:
    """Whether a program writes the page."""
    return page.read_text().startswith("<!-- generated: ")


def blocks() -> Iterator[Block]:
    """Every fenced block of every page."""
    for page in pages():
        yield from blocks_of(page)


def blocks_of(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    name = str(page.relative_to(REPOSITORY))
    lines = page.read_text().splitlines()
    at = 0
    while at < len(lines):
        found = _FENCE.fullmatch(lines[at])
        if found is None:
            at += 1
            continue
        indent = len(lines[at]) - len(lines[at].lstrip())
        end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
        mark = _MARK.fullmatch(lines[at - 1].strip()) if at else None
        text = "\n".join(line[indent:] for line in lines[at + 1 : end])
        yield Block(name, at + 1, found[1], (mark[1], mark[2]) if mark else None, text)
        at = end + 1


def essential(command: str) -> list[str]:
    """The words of a command by which a test that does the same can be known: subcommands, options, and names of files.

    Options of kubectl and helm are not among them, since stories set them by other means, nor is the plan that a command reads.
    """
    words = shlex.split(command, comments=True)
    program, *rest = words
    ours = Path(program).name == "servingplan"
    found = [Path(word).name for word in rest if not ours and "/" in word and (REPOSITORY / word).is_file()]
    if ours:
        found += [word.split("=")[0] for word in rest if word.startswith("--")]
    if Path(program).name in ("servingplan", "kubectl", "helm"):
        subcommands: list[str] = []
        for word in rest:
            if not re.fullmatch(r"[a-z][a-z-]+", word) or len(subcommands) == (2 if rest[0] == "profile" else 1):
                break
            subcommands.append(word)
        found += subcommands
    elif program == "curl":
        found.append("/v1/chat/completions")
    return found
