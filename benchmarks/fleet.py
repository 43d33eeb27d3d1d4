"""One fleet, three ways to route: the plan's class weights, round robin over all replicas, least-request over all.

python -m benchmarks.fleet            prints the tables of docs/fleet.md
python -m benchmarks.fleet --quick    a tenth of the requests
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.report import machine, percentile
from benchmarks.simulated_fleet import (
    TWO_CHOICES,
    Outcome,
    Replica,
    Request,
    Route,
    by_class,
    faster,
    least_request,
    limits_of,
    poisson,
    replay,
    replicas_of,
    round_robin,
    share_in_time,
    spec_of,
)
from papers.p1.instance import DOLLARS_PER_HOUR, PARTS, STOCK
from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.planning.situation import Situation
from servingplan.replay.mixes import LENGTHS, MIXES
from servingplan.routing.document import routing_document

SEED = 20261121
PERCENTILE = 95
SEARCHED = 4_000
"""Requests of one step of the search for the highest rate: overload is slow to simulate."""
Json = dict[str, Any]


def plan_of(models: str, mix: str, budget: float, *, gpus_per_node: int) -> Json:
    """A plan for the largest multiple of a mix of Jiang et al. that the budget buys, at their prices."""
    return {
        "metadata": {"name": "chat", "namespace": "llm"},
        "spec": {
            "objective": "MaximizeService",
            "budget": {"dollarsPerHour": f"{budget:g}"},
            "models": [
                {
                    "name": model.lower(),
                    "slo": SLO[model],
                    "variants": VARIANTS[model],
                    "classes": [
                        {
                            "name": f"in{tokens_in}-out{tokens_out}",
                            "inputTokens": tokens_in,
                            "outputTokens": tokens_out,
                            "requestsPerSecond": f"{part * percent / 100:g}",
                        }
                        for (tokens_in, tokens_out), percent in zip(LENGTHS, MIXES[mix], strict=True)
                    ],
                }
                for model, part in PARTS[models].items()
            ],
            "nodePools": [
                {
                    "name": gpu.lower(),
                    "gpu": gpu.replace("A100-SXM-", "A100-SXM4-"),
                    "gpusPerNode": gpus_per_node,
                    "dollarsPerNodeHour": f"{gpus_per_node * price:g}",
                    "maxNodes": count // gpus_per_node,
                    "nodeSelector": {"gpu": gpu},
                    "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": gpu.lower()},
                }
                for (gpu, price), count in zip(DOLLARS_PER_HOUR.items(), STOCK[1], strict=True)
            ],
        },
    }


SLO = {
    "Llama-3.1-70B": {"ttftSeconds": "4", "tpotSeconds": "0.1", "percentile": PERCENTILE},
    "Llama-3.1-8B": {"ttftSeconds": "2", "tpotSeconds": "0.05", "percentile": PERCENTILE},
}
VARIANTS = {
    "Llama-3.1-70B": [{"name": "bf16", "source": "hf://meta-llama/Llama-3.1-70B-Instruct", "precision": "bf16"}],
    "Llama-3.1-8B": [{"name": "bf16", "source": "hf://meta-llama/Llama-3.1-8B-Instruct", "precision": "bf16"}],
}


class Planned:
    """A plan as the operator makes it, with the routing document over the whole of its fleet."""

    def __init__(self, manifest: Json) -> None:
        self.spec = spec_of(manifest["spec"])
        world = imagined_world(manifest)
        fleet = decide(Situation(world), solve_with(20)).fleet
        assert fleet is not None
        self.fleet = fleet
        sets = fleet.replica_sets
        self.document = routing_document(
            plan=world.plan,
            spec=self.spec,
            fleet=fleet,
            facts={item.deployment: item.facts for item in sets},
            ready={item.deployment: item.replicas for item in sets},
            previous=None,
        )
        self.classes = [
            (item.model, item.name, item.planned_requests_per_second, *self._lengths(item.model, item.name))
            for item in fleet.classes
        ]

    def _lengths(self, model: str, name: str) -> tuple[int, int]:
        return next(
            (item.input_tokens, item.output_tokens)
            for owner in self.spec.models
            for item in owner.effective_classes
            if (owner.name, item.name) == (model, name)
        )

    @property
    def requests_per_second(self) -> float:
        """The rate that the plan serves."""
        return sum(item[2] for item in self.classes)

    def shapes(self) -> str:
        """The fleet in words."""
        return ", ".join(
            f"{item.replicas} {item.model.rpartition('-')[2]} on {item.gpus}x{item.gpu}"
            for item in self.fleet.replica_sets
        )


RULES: dict[str, Callable[[list[Replica], Planned], Route]] = {
    "class weights": lambda replicas, plan: by_class(replicas, plan.document),
    "class weights, two choices": lambda replicas, plan: by_class(replicas, plan.document, choices=TWO_CHOICES),
    "round robin": lambda replicas, _: round_robin(replicas),
    "least-request, two choices": lambda replicas, _: least_request(replicas, choices=TWO_CHOICES),
    "least-request": lambda replicas, _: least_request(replicas),
}
"""Least-request is the best of all replicas (of the Service, or of the model), or Envoy's default, the better of two."""
GRID = [(models, mix, budget) for models, budget in (("70B", 60.0), ("pair", 60.0), ("8B", 15.0)) for mix in MIXES]


def served(plan: Planned, rule: str, requests: list[Request], load: float) -> list[Outcome]:
    """What becomes of the requests at a multiple of the planned rates; the first quarter warms the fleet up."""
    outcomes = replay(faster(requests, load), RULES[rule](replicas_of(plan.fleet, plan.spec), plan))
    return outcomes[len(requests) // 4 :]


def highest_load(plan: Planned, rule: str, requests: list[Request]) -> float:
    """The highest multiple of the planned rates, to 2 %, at which as many requests as the percentile says are in time."""
    limits = limits_of(plan.spec)
    low, high = 0.0, 2.56
    while high - low > 0.02:
        middle = (low + high) / 2
        within = share_in_time(served(plan, rule, requests, middle), limits) >= PERCENTILE / 100
        low, high = (middle, high) if within else (low, middle)
    return low


def compared(models: str, mix: str, budget: float, number: int) -> list[str]:
    """Rows of the table for one fleet."""
    plan = Planned(plan_of(models, mix, budget, gpus_per_node=1 if models == "8B" else 4))
    requests = poisson(plan.classes, number, seed=SEED)
    limits = limits_of(plan.spec)
    rows = [
        f"{models} {mix}: {plan.fleet.dollars_per_hour:.2f} $/h, {plan.requests_per_second:.1f} requests/s; {plan.shapes()}"
    ]
    for rule in RULES:
        most = highest_load(plan, rule, requests[:SEARCHED]) * plan.requests_per_second
        part = share_in_time(served(plan, rule, requests, 1.0), limits)
        rows.append(f"| {models} {mix} | {rule} | {most:.1f} | {part:.1%} | {part * plan.requests_per_second:.1f} |")
    return rows


# --- twice what the budget serves -----------------------------------------------------------------------------------


def overloaded(mix: str, number: int) -> list[str]:
    """Twice the requests that the budget serves: of the 70B, which has priority, as many; of the 8B all the others."""
    served_by_budget = Planned(plan_of("pair", mix, 60.0, gpus_per_node=4))
    manifest = plan_of("pair", mix, 60.0, gpus_per_node=4)
    manifest["spec"]["objective"] = "MinimizeCost"
    total = served_by_budget.requests_per_second
    top = sum(rate for model, _, rate, *_ in served_by_budget.classes if "70b" in model)
    factors = {"llama-3.1-70b": 1.0, "llama-3.1-8b": (2 * total - top) / (total - top)}
    asked = {(model, name): factors[model] * rate for model, name, rate, *_ in served_by_budget.classes}
    for model in manifest["spec"]["models"]:
        model["priority"] = 100 if "70b" in model["name"] else 10
        for item in model["classes"]:
            item["requestsPerSecond"] = f"{asked[model['name'], item['name']]:.6f}"
    plan = Planned(manifest)
    offered = [
        (model, name, asked[model, name], tokens_in, tokens_out)
        for model, name, _, tokens_in, tokens_out in plan.classes
    ]
    requests = poisson(offered, number, seed=SEED)
    limits, rows = limits_of(plan.spec), []
    for title, admission in (("as planned", True), ("admitting all", False)):
        replicas = replicas_of(plan.fleet, plan.spec)
        outcomes = replay(requests, by_class(replicas, plan.document, admission=admission))[number // 4 :]
        for model in plan.spec.models:
            own = [item for item in outcomes if item.request.model == model.name]
            taken = [item for item in own if item.served is not None]
            waits = [seconds for item in taken if (seconds := item.ttft_seconds) is not None]
            rate = sum(value for (owner, _), value in asked.items() if owner == model.name)
            rows.append(
                f"| {mix} | {title} | {model.name} ({model.priority}) | {rate:.1f} | {1 - len(taken) / len(own):.1%} "
                f"| {share_in_time(taken, limits):.1%} | {percentile(waits, 50):.2f} s | {percentile(waits, 99):.2f} s |"
            )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description="One fleet, several ways to route.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    number = 1_000 if parser.parse_args().quick else 10_000
    print(f"{machine()}\n{number} requests, seed {SEED}\n")
    with ProcessPoolExecutor(max_workers=2) as workers:
        print("| models, mix | routing | most/s | in time | of them/s |\n|---|---|---|---|---|")
        for job in [workers.submit(compared, *case, number) for case in GRID]:
            print("\n".join(job.result()), flush=True)
        print(
            "\n| mix | admission | model (priority) | offered/s | turned away | of the rest in time | TTFT p50 | p99 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for job in [workers.submit(overloaded, mix, min(number, SEARCHED)) for mix in MIXES]:
            print("\n".join(job.result()), flush=True)


if __name__ == "__main__":
    main()
