"""`python -m papers`: re-run the tables of both papers; `--write` puts them into `docs/papers.md`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from papers.p1 import replanning
from papers.p1 import simulated_tables as simulated
from papers.p1 import tables as p1
from papers.p2 import rolling
from papers.p2 import tables as p2
from papers.page import write_part

P2_FULL = (
    "--sizes", "all", "--seeds", "10", "--exact-seconds", "20", "--exact-routes", "1000",
    "--scenarios", "500", "--trials", "10", "--windows", str(rolling.WINDOWS), "--sigmas", "0.01", "0.03", "0.05",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m papers", description="Run the tables of the papers again.")
    parser.add_argument(
        "--only", choices=(p1.PAPER, replanning.PAPER, simulated.PAPER, p2.PAPER, rolling.PAPER), help="one part"
    )
    parser.add_argument("--full", action="store_true", help="what docs/papers.md holds: all sizes, seeds and searches")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page whose parts are replaced, docs/papers.md")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what was simulated there, and go on from that")
    options = parser.parse_args(arguments)
    keep, full = options.keep, options.full
    parts: dict[str, Callable[[], str]] = {
        p1.PAPER: lambda: p1.part(p1.FULL if full else p1.QUICK),
        replanning.PAPER: replanning.part,
        simulated.PAPER: lambda: simulated.part(simulated.FULL if full else simulated.QUICK, keep),
        rolling.PAPER: lambda: rolling.part(rolling.FULL if full else rolling.QUICK, keep),
    }
    for paper, run in parts.items():
        if options.only in (None, paper):
            part = run()
            print(part, flush=True)
            if options.write:
                write_part(options.write, paper, part)
    if options.only in (None, p2.PAPER):
        p2.main([*(P2_FULL if full else ()), *(["--write", str(options.write)] if options.write else [])])


if __name__ == "__main__":
    main()
