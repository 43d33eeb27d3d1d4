"""Run every benchmark, one after the other, and rewrite ``docs/benchmarks.md``.

python -m benchmarks            all; the page is rewritten
python -m benchmarks --quick    all, as short as it goes; the page is left alone
"""

from __future__ import annotations

import argparse

from benchmarks import (
    apply_to_weights,
    at_rest,
    capacity,
    command_line,
    gateway,
    large_cluster,
    loss_to_weights,
    rates,
    solving,
    standby,
)
from benchmarks.report import PAGE, page, show

ALL = (
    apply_to_weights,
    loss_to_weights,
    large_cluster,
    at_rest,
    command_line,
    rates,
    solving,
    gateway,
    capacity,
    standby,
)


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="only show that they run; no page is written")
    quick = parser.parse_args().quick
    sections = []
    for benchmark in ALL:
        sections.append(benchmark.measure(quick))
        show(sections[-1])
    if not quick:
        PAGE.write_text(page(sections))
        print(f"{PAGE} is rewritten")


if __name__ == "__main__":
    main()
