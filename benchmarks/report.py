"""What a measurement says, and how it is shown."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None
    """None where there is no goal."""

    @property
    def verdict(self) -> str:
        """The text of the last column."""
        return "" if self.met is None else "met" if self.met else "not met"


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark, and how they were taken."""

    title: str
    how: str
    rows: tuple[Row, ...]


Measure = Callable[[bool], Section]
"""Takes a measurement; a quick one, where that is asked for, only shows that it runs."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many per cent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def spread(values: Sequence[float], unit: str = "s", digits: int = 2) -> str:
    """Median, least and most."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"median {middle:.{digits}f} {unit}, {least:.{digits}f} to {most:.{digits}f} ({len(values)} runs)"


def page(sections: Sequence[Section]) -> str:
    """The whole of ``docs/benchmarks.md``."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures all of this anew and rewrites this page; `python -m benchmarks.NAME` runs one part alone,",
        "`--quick` only shows that it runs. The control plane is real (etcd, kube-apiserver, controller-manager,",
        "scheduler), nodes and pods are simulated by KWOK, and everything shares the machine below, the operator too.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}. {machine()}",
    ]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.how, "", "| what | measured | goal | |", "|---|---|---|---|"]
        lines += [f"| {row.what} | {row.measured} | {row.goal} | {row.verdict} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What the figures came from."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("kopf", "kubernetes", "highspy", "pydantic"))
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory_gibibytes():.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {packages}, servingplan {metadata.version('servingplan')}. "
        f"Load average when the page was written: {load:.1f}."
    )


def alone(measure: Measure) -> None:
    """Run one benchmark from the command line."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    show(measure(parser.parse_args().quick))


def show(section: Section) -> None:
    """Print the figures."""
    print(section.title)
    for row in section.rows:
        print(f"  {row.what}: {row.measured}" + (f" (goal {row.goal}: {row.verdict})" if row.goal else ""), flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gibibytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
