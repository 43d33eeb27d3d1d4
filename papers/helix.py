"""Helix's layer placement (Mei et al., ASPLOS 2025, arXiv 2406.01566), as far as to print its own figure again.

    python -m papers.helix CHECKOUT

CHECKOUT is a copy of Thesys-lab/Helix-ASPLOS25 at 148b733 (Apache-2.0), which is not part of this project. From its measured
times a layer and its cluster file of four A100 this builds the throughput of a node by its number of layers and the paper's
program, and solves it. The result is compared with the objective that the checkout's own log holds, 1,044.53 tokens/s.

A node holds a run of consecutive layers; a request goes from the source through nodes whose runs join, to the sink. With s[i]
the first layer of node i, b[i,k] whether it holds k of them, d[i,j] whether the arc may be used and f[i,j] the tokens/s on it:

    max  sum_i f[source,i]
    sum_k b[i,k] = 1,  e[i] = s[i] + sum_k k b[i,k] <= L            a run of layers
    sum_u f[u,i] <= sum_k T[i,k] b[i,k],  inflow = outflow          a node's throughput
    f[u,v] <= capacity[u,v] d[u,v]                                  a link's
    s[i] <= L (1 - d[source,i]),  e[i] >= L d[i,sink]               whole passes only
    -L (1 - d[i,j]) <= e[i] - s[j] <= L (1 - d[i,j])                runs join
"""

from __future__ import annotations

import argparse
import configparser
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from papers.page import marks, measured, write_part
from servingplan.solve.solver.program import Limits, Program, Term

PAPER = "Helix"
PRINTED = 1044.5333450564908
"""tokens/s; stands in `artifact_evaluation/distributed_clusters/layout_llama30b/ilp/a100/ilp_solution.sol`"""
LAYERS = 60
"""Layers of LLaMA-30B"""
INPUT_TOKENS, OUTPUT_TOKENS = 750, 240
"""Means of the requests (`simulator/event_simulator/utils.py`)"""
BLOCK_TOKENS, FILLED = 16, 0.3
"""Tokens of a KV block, and the part of the KV cache that is counted as in use; the same file"""
BLOCKS = (
    80613, 39046, 25190, 18263, 14106, 11335, 9355, 7871, 6716, 5792, 5037, 4407, 3874, 3417, 3021, 2675, 2369, 2097,
)  # fmt: skip
"""KV blocks of an A100 with 40 GB that holds 1, 2, ... 18 layers (`llama1_30b_a100.py`)"""
TOKEN_BYTES, ACTIVATION_BYTES = 2.0, 6656 * 2.0
"""What a token takes on a link to or from the host, and between nodes"""
MEGA_BYTES = 1e6
"""Bytes/s of the unit that Helix's files call mbps: their program divides it by bytes, so that it means megabytes"""
SOURCE, SINK = "source", "sink"
NODES = 1_000_000
"""Work limit, in branch-and-bound nodes"""


@dataclass(frozen=True)
class Cluster:
    """Nodes and links."""

    throughput: Mapping[str, Sequence[float]]
    """tokens/s of each node that holds 1, 2, ... layers"""
    links: Mapping[tuple[str, str], float]
    """tokens/s, by direction"""


@dataclass(frozen=True)
class Placed:
    """Which node holds which layers, and how many tokens/s pass."""

    tokens_per_second: float
    bound: float
    runs: Mapping[str, tuple[int, int]]
    """First layer and the one after the last, by node"""


def place(cluster: Cluster, layers: int) -> Placed:
    """The placement with the most tokens/s, proved unless `NODES` are not enough."""
    program = Program("helix")
    most = max(max(rates) for rates in cluster.throughput.values()) * len(cluster.throughput)
    start = {i: program.add_column(f"start({i})", upper=float(layers - 1), integer=True) for i in cluster.throughput}
    holds = {
        i: [program.add_column(f"holds({i}.{k})", upper=1.0, integer=True) for k in range(1, len(rates) + 1)]
        for i, rates in cluster.throughput.items()
    }
    flow = {arc: program.add_column(f"flow({arc})", upper=min(most, cap)) for arc, cap in cluster.links.items()}
    used = {arc: program.add_column(f"used({arc})", upper=1.0, integer=True) for arc in cluster.links}

    def end(i: str, factor: float = 1.0) -> list[Term]:
        return [(start[i], factor), *((b, factor * k) for k, b in enumerate(holds[i], start=1))]

    for i, rates in cluster.throughput.items():
        inflow: list[Term] = [(f, 1.0) for (_, v), f in flow.items() if v == i]
        outflow: list[Term] = [(f, -1.0) for (u, _), f in flow.items() if u == i]
        program.add_row(f"one({i})", [(b, 1.0) for b in holds[i]], "==", 1.0)
        program.add_row(f"inside({i})", end(i), "<=", float(layers))
        program.add_row(f"conserved({i})", [*inflow, *outflow], "==", 0.0)
        program.add_row(
            f"node({i})", [*inflow, *((b, -rate) for b, rate in zip(holds[i], rates, strict=True))], "<=", 0.0
        )
    for (u, v), column in used.items():
        program.add_row(f"link({u}.{v})", [(flow[u, v], 1.0), (column, -min(most, cluster.links[u, v]))], "<=", 0.0)
        if u == SOURCE:
            program.add_row(f"first({v})", [(start[v], 1.0), (column, float(layers))], "<=", float(layers))
        elif v == SINK:
            program.add_row(f"last({u})", [*end(u, -1.0), (column, float(layers))], "<=", 0.0)
        else:
            program.add_row(
                f"after({u}.{v})", [*end(u), (start[v], -1.0), (column, float(layers))], "<=", float(layers)
            )
            program.add_row(
                f"before({u}.{v})", [*end(u, -1.0), (start[v], 1.0), (column, float(layers))], "<=", float(layers)
            )
    objective = [(f, 1.0) for (u, _), f in flow.items() if u == SOURCE]
    found = program.optimise(objective, "max", Limits(relative_gap=1e-6, nodes=NODES))
    assert found.values, "to hold one layer each, and to pass nothing, is always a placement"
    assert found.bound is not None, "a search that ended has a bound"

    first = {i: round(found.values[column]) for i, column in start.items()}
    count = {i: sum(k * round(found.values[b]) for k, b in enumerate(columns, start=1)) for i, columns in holds.items()}
    passing = sum(found.values[f] for f, _ in objective)
    return Placed(passing, found.bound, {i: (first[i], first[i] + count[i]) for i in start})


def node_throughput(layers: int, prompt_ms: Mapping[int, float], decode_ms: Mapping[int, float]) -> float:
    """tokens/s of an A100 among like ones that holds so many layers, by Helix's own estimate.

    Its share of the requests in the cluster is layers / `LAYERS`, as all nodes are alike. So many requests decode at a time,
    and each has one prompt per `OUTPUT_TOKENS` steps; both are scaled to one prompt.
    """
    length = INPUT_TOKENS + OUTPUT_TOKENS
    requests = int(FILLED * BLOCK_TOKENS * BLOCKS[layers - 1]) / length * layers / LAYERS
    prompts = requests / OUTPUT_TOKENS
    if prompts > 1:
        prompt, decode, scale = INPUT_TOKENS, OUTPUT_TOKENS, 1.0
    else:
        prompt, decode, scale = round(prompts * INPUT_TOKENS), round(requests), 1 / prompts
    took_ms = layers * (_between(prompt_ms, int(prompt * scale)) + scale * _between(decode_ms, decode))
    return scale * (prompt + decode) / took_ms * 1000


def a100_cluster(checkout: Path) -> Cluster:
    """Helix's four A100."""
    times = checkout / "simulator" / "model_manager" / "llama1_30b" / "a100"
    prompt, decode = (_times(times / f"{phase}_bs2time.csv") for phase in ("prompt", "decode"))
    rates = [node_throughput(k, prompt, decode) for k in range(1, len(BLOCKS) + 1)]
    file = configparser.ConfigParser()
    file.read_string((checkout / "artifact_evaluation" / "distributed_clusters" / "config" / "a100.ini").read_text())
    links: dict[tuple[str, str], float] = {}
    for section in file.sections():
        if section.startswith("Link-"):
            _, u, v = section.split("-")
            number = re.fullmatch(r"([\d.]+) \* mbps", file[section]["bandwidth"])
            assert number, f"{section}: a bandwidth in another unit"
            host = u == SOURCE or v == SINK
            capacity = float(number[1]) * MEGA_BYTES / (TOKEN_BYTES if host else ACTIVATION_BYTES)
            links |= {(u, v): capacity} if host else {(u, v): capacity, (v, u): capacity}
    nodes = sorted({v for u, v in links if u == SOURCE})
    return Cluster(dict.fromkeys(nodes, rates), links)


def _times(file: Path) -> dict[int, float]:
    with file.open() as rows:
        return {int(tokens): float(ms) for tokens, ms in csv.reader(rows)}


def _between(times: Mapping[int, float], tokens: int) -> float:
    for (low, before), (high, after) in pairwise(sorted(times.items())):
        if low <= tokens <= high:
            return before + (after - before) * (tokens - low) / (high - low)
    raise ValueError(f"{tokens} tokens: beyond the measured times")


def part(checkout: Path) -> str:
    """Helix's part of the page, from a copy of its data."""
    placed = place(a100_cluster(checkout), LAYERS)
    begin, end = marks(PAPER)
    runs = ", ".join(f"{first} to {after - 1}" for first, after in sorted(placed.runs.values()))
    return f"""\
{begin}
## Helix: its four A100

`python -m papers.helix CHECKOUT`, with a copy of Thesys-lab/Helix-ASPLOS25 at 148b733. {measured()}.

| | tokens/s | bound |
|---|---|---|
| its own log (Gurobi) | {PRINTED:.2f} | |
| here, from its measured times and its cluster file | {placed.tokens_per_second:.2f} | {placed.bound:.2f} |

LLaMA-30B, {LAYERS} layers; the nodes hold layers {runs}. Helix's placement is not among
the fleets that are compared, since it spreads layers over nodes, and the simulation has only replicas inside one node.

{end}
"""


def main() -> None:
    """Print the part, and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m papers.helix", description="Helix's four A100 again.")
    parser.add_argument("checkout", type=Path, help="a copy of Thesys-lab/Helix-ASPLOS25")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page whose part is replaced, docs/papers.md")
    options = parser.parse_args()
    text = part(options.checkout)
    print(text)
    if options.write:
        write_part(options.write, PAPER, text)


if __name__ == "__main__":
    main()
