"""The replicas of a plan on one virtual clock, and ways to choose one of them for each request.

Replicas are the scheduler of ``servingplan.simulate`` with the limits that vLLM has by default; the gateway's choice takes
no time. The same seed gives the same arrivals and the same result.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.engine import EngineSettings, vllm_limits
from servingplan.model.fleet import Fleet
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.replay.gateway import Bucket
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.simulate.sequence import Sequence as Served

TWO_CHOICES = 2
"""Replicas that Envoy's LEAST_REQUEST looks at for one request by default."""


@dataclass(frozen=True, slots=True)
class Request:
    """One arrival."""

    at: float
    """Seconds."""
    model: str
    name: str
    """The name of its class."""
    prompt_tokens: int
    output_tokens: int


class Replica:
    """One engine of a Service."""

    def __init__(self, service: str, model: str, engine: Engine) -> None:
        self.service, self.model, self.engine = service, model, engine

    def in_flight(self, now: float) -> int:
        """Requests that it has and has not answered."""
        self.engine.advance(now)
        return self.engine.running + self.engine.waiting


def spec_of(raw: object) -> PlanSpec:
    """The spec of a benchmark's own plan, which has no mistake."""
    spec, mistakes = parse_spec(raw)
    assert spec is not None, mistakes
    return spec


def replicas_of(fleet: Fleet, spec: PlanSpec) -> list[Replica]:
    """The replicas of a plan, Service by Service."""
    models = {model.name: model for model in spec.models}
    return [
        new_replica(
            models[item.model], item.deployment, item.variant, item.gpu, item.tensor_parallel, item.pipeline_parallel
        )
        for item in fleet.replica_sets
        for _ in range(item.replicas)
    ]


def new_replica(model: Model, service: str, variant: str, gpu: str, tensor: int, pipeline: int) -> Replica:
    """An idle replica."""
    precision = next(item.precision for item in model.effective_variants if item.name == variant)
    precision = find_model(model.name).precision if precision == "auto" else precision
    seqs, batched = vllm_limits(find_gpu(gpu))
    pace = _pace(model.name, precision, gpu, tensor, pipeline, model.effective_max_model_len)
    return Replica(service, model.name, Engine(pace, max_num_seqs=seqs, max_num_batched_tokens=batched))


@lru_cache(maxsize=256)
def _pace(model: str, precision: str, gpu: str, tensor: int, pipeline: int, max_model_len: int) -> Pace:
    return Pace(
        model=find_model(model),
        precision=precision,
        gpu=find_gpu(gpu),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        settings=EngineSettings(max_model_len=max_model_len),
    )


# --- arrivals -------------------------------------------------------------------------------------------------------


def poisson(classes: Sequence[tuple[str, str, float, int, int]], number: int, *, seed: int) -> list[Request]:
    """``number`` requests of a Poisson stream over classes (model, name, requests/s, prompt, output tokens)."""
    chance = random.Random(seed)
    rates = [item[2] for item in classes]
    now, found = 0.0, []
    for _ in range(number):
        now += chance.expovariate(sum(rates))
        model, name, _, prompt, output = chance.choices(classes, rates)[0]
        found.append(Request(now, model, name, prompt, output))
    return found


def faster(requests: Iterable[Request], factor: float) -> Iterator[Request]:
    """The same requests, ``factor`` times as many in a second."""
    for item in requests:
        yield Request(item.at / factor, item.model, item.name, item.prompt_tokens, item.output_tokens)


# --- choosing a replica ---------------------------------------------------------------------------------------------

Route = Callable[[Request], Replica | None]
"""The replica for a request; None where it is turned away."""


def fewest(replicas: Sequence[Replica], now: float, chance: random.Random, choices: int | None) -> Replica:
    """The replica with the fewest requests in flight among ``choices`` drawn ones, or among all; the first of equals."""
    drawn = replicas if choices is None else [replicas[int(chance.random() * len(replicas))] for _ in range(choices)]
    return drawn[0] if len(drawn) == 1 else min(drawn, key=lambda replica: replica.in_flight(now))


def by_class(
    replicas: Iterable[Replica],
    document: Mapping[str, Any],
    *,
    choices: int | None = None,
    admission: bool = True,
    seed: int = 1,
) -> Route:
    """A route that does what our Envoy does by ``routing.json``.

    That is admission and weights per class, then the replica of the Service with the fewest requests in flight.
    """
    chance = random.Random(seed)
    services: dict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        services[replica.service].append(replica)
    tables: dict[tuple[str, str], tuple[list[list[Replica]], list[float]]] = {}
    buckets: dict[tuple[str, str], Bucket] = {}
    for model, entry in document["models"].items():
        for item in entry["classes"]:
            targets = [(services[target["service"]], target["weight"]) for target in item["targets"]]
            targets = [(ready, weight) for ready, weight in targets if ready]
            tables[model, item["name"]] = [ready for ready, _ in targets], [weight for _, weight in targets]
            if admission and item["admitRequestsPerSecond"] is not None:
                buckets[model, item["name"]] = Bucket(item["admitRequestsPerSecond"])

    def route(request: Request) -> Replica | None:
        key = request.model, request.name
        ready, weights = tables[key]
        if not ready or (key in buckets and not buckets[key].takes(request.at)):
            return None
        return fewest(chance.choices(ready, weights)[0], request.at, chance, choices)

    return route


def least_request(replicas: Iterable[Replica], *, choices: int | None = None, seed: int = 1) -> Route:
    """Every replica of the model alike: the fewest in flight of ``choices`` drawn ones, or of all."""
    chance, own = random.Random(seed), _by_model(replicas)
    return lambda request: fewest(own[request.model], request.at, chance, choices)


def round_robin(replicas: Iterable[Replica]) -> Route:
    """Every replica of the model in turn."""
    own = _by_model(replicas)
    turns: Counter[str] = Counter()

    def route(request: Request) -> Replica:
        turns[request.model] += 1
        return own[request.model][turns[request.model] % len(own[request.model])]

    return route


def _by_model(replicas: Iterable[Replica]) -> dict[str, list[Replica]]:
    own: dict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        own[replica.model].append(replica)
    return own


# --- what became of them --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request and its times; ``served`` is None where it was turned away."""

    request: Request
    served: Served | None

    @property
    def ttft_seconds(self) -> float | None:
        """The time from the request's arrival to its first token, in seconds; None if no token came."""
        if self.served is None or self.served.first_token is None:
            return None
        return self.served.first_token - self.request.at

    def in_time(self, ttft_seconds: float, tpot_seconds: float) -> bool:
        """Whether it was served within both limits."""
        waited = self.ttft_seconds
        if self.served is None or self.served.finished is None or waited is None:
            return False
        return waited <= ttft_seconds and (self.served.time_per_output_token or 0.0) <= tpot_seconds


def replay(requests: Iterable[Request], route: Route) -> list[Outcome]:
    """Send requests, given by arrival, and serve them to the last."""
    outcomes: list[Outcome] = []
    used: dict[int, Replica] = {}
    for request in requests:
        replica = route(request)
        served = None
        if replica is not None:
            replica.engine.advance(request.at)
            served = replica.engine.admit(request.prompt_tokens, request.output_tokens, request.at)
            used[id(replica)] = replica
        outcomes.append(Outcome(request, served))
    for replica in used.values():
        replica.engine.advance(math.inf)
    return outcomes


def share_in_time(outcomes: Iterable[Outcome], limits: Mapping[tuple[str, str], tuple[float, float]]) -> float:
    """Share of the requests that were served within the limits of their class (TTFT, TPOT in seconds)."""
    judged = [item.in_time(*limits[item.request.model, item.request.name]) for item in outcomes]
    return sum(judged) / len(judged)


def limits_of(spec: PlanSpec) -> dict[tuple[str, str], tuple[float, float]]:
    """TTFT and TPOT limits in seconds by model and class; infinite where none is given."""
    found = {}
    for model in spec.models:
        for item in model.effective_classes:
            slo = item.slo or model.slo
            found[model.name, item.name] = _limit(slo.ttft_seconds), _limit(slo.tpot_seconds)
    return found


def _limit(seconds: Decimal | None) -> float:
    return math.inf if seconds is None else float(seconds)
