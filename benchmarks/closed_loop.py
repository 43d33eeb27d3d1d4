"""An hour of the Azure traces: the operator's own turns on measured demand, static plans, and an autoscaler on queue length.

python -m benchmarks.closed_loop FOLDER            prints the table of docs/fleet.md
python -m benchmarks.closed_loop FOLDER --times 2  half of the load

FOLDER holds ``code.csv`` and ``conv.csv`` (or ``.gz``) with the columns ``t_s,input_tokens,output_tokens``: the traces
AzureLLMInferenceTrace_code and _conv of Azure/AzurePublicDataset (2023, CC-BY-4.0; Patel et al., ISCA 2024), time in seconds
from the first request. They are not part of this project. Everything runs on one virtual clock; the same call gives the
same table.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import math
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.report import machine
from benchmarks.simulated_fleet import (
    Outcome,
    Replica,
    Request,
    Route,
    by_class,
    fewest,
    limits_of,
    new_replica,
    share_in_time,
    spec_of,
)
from servingplan.api.models_v1alpha1 import Model
from servingplan.model.fleet import ReplicaSet
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.rehearse.cluster import TICK_SECONDS
from servingplan.replay.autoscale import STABILIZATION_SECONDS, SYNC_SECONDS, Rule, desired
from tests.simulated.driver import Driver
from tests.simulated.plans import operator

SEED = 20261121
MODEL, CONTEXT = "llama-3.1-8b", 16_384
CLASSES = ("code", "conv")
SHIFT_SECONDS = 30.0
"""Copies of a request come up to so much earlier or later: the trace's minutes stay, its instants are blurred."""
NODE_TICKS, ENGINE_TICKS, STOP_TICKS = 9, 6, 3
"""A node takes 90 s to come, an engine 60 s to load, a stopping one holds its node for 30 s."""
WINDOW_SECONDS = 300
POOLS = (("l40s", "L40S", 1.76), ("a100", "A100-SXM4-80GB", 3.67), ("h100", "H100-SXM-80GB", 6.155))
"""Nodes of one GPU; $/h are those of ``examples/chat.yaml``, an eighth or a quarter of a node."""
BUDGET = 100.0


def trace(folder: Path, times: int) -> list[Request]:
    """Both traces together, every request ``times`` times, by arrival."""
    chance, found = random.Random(SEED), []
    for name in CLASSES:
        for row in _rows(folder, name):
            prompt = min(int(row["input_tokens"]), CONTEXT - 1)
            output = max(1, min(int(row["output_tokens"]), CONTEXT - prompt))
            for _ in range(times):
                at = abs(float(row["t_s"]) + chance.uniform(-SHIFT_SECONDS, SHIFT_SECONDS))
                found.append(Request(at, MODEL, name, max(1, prompt), output))
    return sorted(found, key=lambda item: (item.at, item.name, item.prompt_tokens, item.output_tokens))


def _rows(folder: Path, name: str) -> Iterable[dict[str, str]]:
    plain, packed = folder / f"{name}.csv", folder / f"{name}.csv.gz"
    text = plain.read_text() if plain.exists() else gzip.decompress(packed.read_bytes()).decode()
    return csv.DictReader(io.StringIO(text))


def plan_of(rates: dict[str, float], requests: Sequence[Request], *, measured: bool) -> dict[str, Any]:
    """The plan for these requests/s by class, with the mean lengths of the trace."""
    demand = {"demand": {"prometheus": {"url": "http://prometheus:9090", "window": "5m"}}} if measured else {}
    return {
        "budget": {"dollarsPerHour": f"{BUDGET:g}"},
        "models": [
            {
                "name": MODEL,
                "slo": {"ttftSeconds": "2", "tpotSeconds": "0.1", "percentile": 95},
                "maxModelLen": CONTEXT,
                "classes": [
                    {
                        "name": name,
                        "inputTokens": round(mean(item.prompt_tokens for item in requests if item.name == name)),
                        "outputTokens": round(mean(item.output_tokens for item in requests if item.name == name)),
                        "requestsPerSecond": f"{rates[name]:.4f}",
                    }
                    for name in CLASSES
                ],
            }
        ],
        "nodePools": [
            {
                "name": name,
                "gpu": gpu,
                "gpusPerNode": 1,
                "dollarsPerNodeHour": f"{price:g}",
                "maxNodes": 40,
                "nodeSelector": {"pool": name},
                "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": name},
            }
            for name, gpu, price in POOLS
        ],
        **demand,
    }


@dataclass
class Hour:
    """What a strategy made of the trace."""

    outcomes: list[Outcome] = field(default_factory=list)
    dollars: float = 0.0
    most_dollars_per_hour: float = 0.0
    changes: int = 0
    """Moments at which a pool or the Deployment was given another size."""

    def pay(self, dollars_per_hour: float, seconds: float) -> None:
        """Pay this rate for a while."""
        self.dollars += dollars_per_hour * seconds / 3600
        self.most_dollars_per_hour = max(self.most_dollars_per_hour, dollars_per_hour)


def send(request: Request, replica: Replica | None, hour: Hour) -> None:
    """One request to its replica, or turned away."""
    served = None
    if replica is not None:
        replica.engine.advance(request.at)
        served = replica.engine.admit(request.prompt_tokens, request.output_tokens, request.at)
    hour.outcomes.append(Outcome(request, served))


# --- the operator ---------------------------------------------------------------------------------------------------


class Counted:
    """What Prometheus would have counted at the gateway, by class and interval of ten seconds."""

    def __init__(self) -> None:
        self.intervals: dict[str, deque[tuple[float, float, float]]] = {
            name: deque(maxlen=WINDOW_SECONDS // TICK_SECONDS) for name in CLASSES
        }

    def add(self, end: float, requests: Iterable[Request]) -> None:
        """One more interval."""
        counts = Counter(item.name for item in requests)
        for name, known in self.intervals.items():
            known.append((end, float(TICK_SECONDS), float(counts[name])))

    def seen(self, _: object) -> SeenDemand | None:
        """The arrivals that a turn reads."""
        arrivals = (Arrivals(model=MODEL, name=name, intervals=tuple(known)) for name, known in self.intervals.items())
        classes = tuple(item for item in arrivals if item.intervals)
        return SeenDemand(signal="envoy", metrics=("requests",), classes=classes)


def operated(requests: Sequence[Request], rates: dict[str, float], *, measured: bool) -> Hour:
    """The operator in the simulated cluster of the tests, its turns taken every ten seconds. It begins with the plan
    for ``rates``, all ready. Without ``measured`` that plan stays."""
    driver: Driver = operator(
        plan_of(rates, requests, measured=measured),
        boot_ticks=NODE_TICKS,
        start_ticks=ENGINE_TICKS,
        stop_ticks=STOP_TICKS,
    )
    counted, hour, engines = Counted(), Hour(), Engines()
    driver.cluster.demand = counted.seen
    driver.settle()
    origin, sizes = driver.cluster.now.timestamp(), _sizes(driver)
    for begin, batch in batches(requests):
        route = engines.route(driver)
        for request in batch:
            send(request, route(request), hour)
        hour.pay(driver.spend, TICK_SECONDS)
        counted.add(origin + begin + TICK_SECONDS, batch)
        driver.tick()
        hour.changes += _sizes(driver) != sizes
        sizes = _sizes(driver)
    engines.finish()
    return hour


def _sizes(driver: Driver) -> list[tuple[str, int]]:
    return sorted((name, pool.wanted) for name, pool in driver.cluster.pools.items())


class Engines:
    """The engines of the simulated cluster's pods."""

    def __init__(self) -> None:
        self._engines: dict[str, Replica] = {}
        self._shapes: dict[str, ReplicaSet] = {}
        self._known: object = None
        self._route: Route

    def route(self, driver: Driver) -> Route:
        """The route by the routing document over the pods that are ready and not draining."""
        cluster, fleet, document = driver.cluster, driver.decision.fleet, driver.routing()
        assert fleet is not None, "no plan: the driver has not settled"
        assert document is not None, "a plan without a routing document"
        self._shapes.update({item.deployment: item for item in fleet.replica_sets})
        ready = [pod for pod in cluster.our_pods() if cluster.is_ready(pod) and pod.serving and not pod.draining_since]
        model = spec_of(cluster.spec).models[0]
        for pod in ready:
            if pod.uid not in self._engines:
                assert pod.deployment is not None, "a pod of ours without a Deployment"
                item = self._shapes[pod.deployment]
                shape = (item.variant, item.gpu, item.tensor_parallel, item.pipeline_parallel)
                self._engines[pod.uid] = new_replica(model, pod.deployment, *shape)
        known = (document["revision"], tuple(pod.uid for pod in ready))
        if known != self._known:
            self._known = known
            self._route = by_class([self._engines[pod.uid] for pod in ready], document)
        return self._route

    def finish(self) -> None:
        """Serve what is there to the last."""
        for replica in self._engines.values():
            replica.engine.advance(math.inf)


def batches(requests: Sequence[Request]) -> Iterable[tuple[float, list[Request]]]:
    """The requests of every ten seconds."""
    end, number = requests[-1].at, 0
    for tick in range(math.ceil(end / TICK_SECONDS) or 1):
        begin, batch = float(tick * TICK_SECONDS), []
        while number < len(requests) and requests[number].at < begin + TICK_SECONDS:
            batch.append(requests[number])
            number += 1
        yield begin, batch


# --- an autoscaler --------------------------------------------------------------------------------------------------

RULES = (Rule("waiting", 1), Rule("waiting", 5), Rule("in-flight", 20), Rule("in-flight", 40))
"""Several targets, since which one is good is not known before."""


class Autoscaled:
    """Replicas of one shape, as many as the rule says, each on a node of its own; least-request over all."""

    def __init__(self, model: Model, gpu: str, dollars_per_hour: float, rule: Rule, replicas: int) -> None:
        self._model, self._gpu, self._price, self._rule = model, gpu, dollars_per_hour, rule
        self._ready = [self._new() for _ in range(replicas)]
        self._booting: list[float] = []
        self._leaving: list[float] = []
        self._wishes: deque[tuple[float, int]] = deque()
        self._all = list(self._ready)
        self._chance = random.Random(1)

    def _new(self) -> Replica:
        return new_replica(self._model, "autoscaled", self._model.effective_variants[0].name, self._gpu, 1, 1)

    def run(self, requests: Sequence[Request]) -> Hour:
        """The whole trace."""
        hour, look = Hour(), SYNC_SECONDS
        for request in requests:
            while look <= request.at:
                hour.pay(self._price * (len(self._ready) + len(self._booting) + len(self._leaving)), SYNC_SECONDS)
                hour.changes += self._look(look)
                look += SYNC_SECONDS
            send(request, fewest(self._ready, request.at, self._chance, None), hour)
        for replica in self._all:
            replica.engine.advance(math.inf)
        return hour

    def _look(self, now: float) -> bool:
        """One sync; whether the wanted number changed."""
        for _ in [moment for moment in self._booting if moment <= now]:
            self._ready.append(self._new())
            self._all.append(self._ready[-1])
        self._booting = [moment for moment in self._booting if moment > now]
        self._leaving = [moment for moment in self._leaving if moment > now]
        current = len(self._ready) + len(self._booting)
        for replica in self._ready:
            replica.engine.advance(now)
        metric = mean(
            replica.engine.waiting + (replica.engine.running if self._rule.metric == "in-flight" else 0)
            for replica in self._ready
        )
        wish = desired(current, len(self._ready), metric / self._rule.target)
        wish = min(wish, int(BUDGET / self._price))
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - STABILIZATION_SECONDS:
            self._wishes.popleft()
        wanted = wish if wish >= current else min(current, max(item for _, item in self._wishes))
        for _ in range(wanted - current):
            self._booting.append(now + TICK_SECONDS * (NODE_TICKS + ENGINE_TICKS))
        for _ in range(current - wanted):
            if self._booting:
                self._booting.pop()
            elif len(self._ready) > 1:
                self._ready.pop()
                self._leaving.append(now + TICK_SECONDS * STOP_TICKS)
        return wanted != current


def best_shape(requests: Sequence[Request]) -> tuple[Model, str, float, float]:
    """The model, the GPU that serves the mean mix at the least $ a request, its $/h, and the requests/s of one."""
    rates = mean_rates(requests)
    found: list[tuple[float, str, float, float]] = []
    for name, gpu, price in POOLS:
        manifest = plan_of(rates, requests, measured=False)
        manifest["nodePools"] = [item for item in manifest["nodePools"] if item["name"] == name]
        fleet = operator(manifest, boot_ticks=1, start_ticks=1).settle()
        copies = sum(item.replicas for item in fleet.replica_sets)
        served = sum(item.planned_requests_per_second for item in fleet.classes)
        found.append((fleet.dollars_per_hour / served, gpu, price, served / copies))
    _, gpu, price, one = min(found)
    return spec_of(manifest).models[0], gpu, price, one


# --- the table ------------------------------------------------------------------------------------------------------


def mean_rates(requests: Sequence[Request]) -> dict[str, float]:
    """Requests/s by class."""
    counts = Counter(item.name for item in requests)
    return {name: counts[name] / requests[-1].at for name in CLASSES}


def peak_rates(requests: Sequence[Request]) -> dict[str, float]:
    """The most requests/s of each class in any five minutes that begin with a minute."""
    found = {}
    for name in CLASSES:
        minutes = Counter(int(item.at // 60) for item in requests if item.name == name)
        last = int(requests[-1].at // 60)
        found[name] = max(sum(minutes[begin + step] for step in range(5)) for begin in range(max(1, last - 4))) / 300
    return found


def strategies(requests: Sequence[Request]) -> list[tuple[str, Callable[[], Hour]]]:
    """What is compared, by name."""
    average, peak = mean_rates(requests), peak_rates(requests)
    model, gpu, price, one = best_shape(requests)
    first = math.ceil(sum(average.values()) / one)

    def scaled(rule: Rule) -> tuple[str, Callable[[], Hour]]:
        title = f"autoscaler, {rule.target:g} {rule.metric.replace('-', ' ')} a replica, {gpu}"
        return title, lambda: Autoscaled(model, gpu, price, rule, first).run(requests)

    return [
        ("the operator on measured demand", lambda: operated(requests, average, measured=True)),
        ("static plan for the mean", lambda: operated(requests, average, measured=False)),
        ("static plan for the peak", lambda: operated(requests, peak, measured=False)),
        *map(scaled, RULES),
    ]


def row(folder: Path, times: int, number: int) -> str:
    """One line of the table."""
    started, requests = time.process_time(), trace(folder, times)
    limits = limits_of(spec_of(plan_of(mean_rates(requests), requests, measured=False)))
    title, run = strategies(requests)[number]
    hour = run()
    shares = [
        share_in_time([item for item in hour.outcomes if item.request.name in names], limits)
        for names in (CLASSES, *((name,) for name in CLASSES))
    ]
    away = sum(item.served is None for item in hour.outcomes) / len(hour.outcomes)
    print(f"{title}: {time.process_time() - started:.0f} s of CPU", file=sys.stderr, flush=True)
    return (
        f"| {title} | {' | '.join(f'{share:.1%}' for share in shares)} | {away:.2%} | {hour.dollars:.2f} "
        f"| {hour.most_dollars_per_hour:.2f} | {hour.changes} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closed_loop", description="An hour of the Azure traces."
    )
    parser.add_argument("folder", type=Path, help="with code.csv and conv.csv, or .csv.gz")
    parser.add_argument("--times", type=int, default=4, help="how often each request is sent (default 4)")
    arguments = parser.parse_args()
    requests = trace(arguments.folder, arguments.times)
    print(machine())
    print(
        f"{len(requests)} requests in {requests[-1].at:.0f} s, seed {SEED}; mean {_told(mean_rates(requests))}; "
        f"most in five minutes {_told(peak_rates(requests))}\n"
    )
    print(
        "| strategy | in time | code | conv | turned away | $ | most $/h | resized |\n|---|---|---|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(max_workers=2) as workers:
        numbers = range(3 + len(RULES))
        for job in [workers.submit(row, arguments.folder, arguments.times, number) for number in numbers]:
            print(job.result(), flush=True)


def _told(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.1f}/s" for name, rate in rates.items())


if __name__ == "__main__":
    main()
