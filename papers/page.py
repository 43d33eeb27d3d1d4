"""The page that the tables are written to, `docs/papers.md`: one part per paper, each between two marks."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

TITLE = "<!-- generated: python -m papers --full --write docs/papers.md -->\n# The papers' tables, run again\n"


@dataclass(frozen=True, slots=True)
class Timed[T]:
    """A result and what it took."""

    result: T
    wall_seconds: float
    cpu_seconds: float


def timed[T](run: Callable[[], T]) -> Timed[T]:
    """Run and time."""
    wall, cpu = time.monotonic(), time.process_time()
    result = run()
    return Timed(result, time.monotonic() - wall, time.process_time() - cpu)


def marks(paper: str) -> tuple[str, str]:
    """The lines that begin and end the part of a paper."""
    return f"<!-- {paper}: written by `python -m papers --write` -->", f"<!-- end of {paper} -->"


def write_part(page: Path, paper: str, part: str) -> None:
    """Put the part of a paper into the page, in place of the one before; parts stand in the order of their names."""
    begin, end = marks(paper)
    text = page.read_text() if page.exists() else TITLE
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
    else:
        first, _ = marks("P2")
        at = text.find(first) if paper < "P2" else -1
        before, after = (text[:at], f"\n\n{text[at:]}") if at >= 0 else (text.rstrip("\n") + "\n\n", "\n")
    page.write_text(before + part.rstrip("\n") + after)


def measured() -> str:
    """When and on what this was measured, as the beginning of a sentence."""
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {_machine()}; one thread, other work on the machine; Python"
        f" {platform.python_version()}, HiGHS {importlib.metadata.version('highspy')}"
    )


def say(progress: str) -> None:
    """One line of progress of a long run, to standard error, with the CPU seconds of the process so far."""
    print(f"{time.process_time():6.0f} s of CPU: {progress}", file=sys.stderr, flush=True)


def row(cells: Sequence[object]) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def header(cells: Sequence[str]) -> list[str]:
    """The two lines above a table's body."""
    return [row(cells), "|" + "---|" * len(cells)]


def spread(values: Sequence[float], form: str) -> str:
    """Median [least, greatest]."""
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} [{form.format(min(values))}, {form.format(max(values))}]"


def _machine() -> str:
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {len(names) or '?'} cores"
