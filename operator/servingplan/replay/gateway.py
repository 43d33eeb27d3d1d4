"""The choice of the replica that takes a request: what a gateway does, without the gateway's own time.

The balancing ``weights`` is that of our routing: ``routing.json`` admits each class and splits it over Services, and inside a
Service the replica with the fewest requests in flight takes the request (Envoy's LEAST_REQUEST, FULL_SCAN). The others are for
comparison. ``prefix-aware`` is the endpoint picker of the Gateway API Inference Extension with its default weights: 3 for the
share of the prompt that a replica is believed to hold, 2 for a short queue, 2 for free KV memory; the highest sum takes the
request. The picker remembers to which replica it sent the parts of a prompt, up to 31,250 blocks of 16 tokens a replica.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Literal

from servingplan.model.fleet import Fleet
from servingplan.replay.fleet import Replica
from servingplan.simulate.pace import BLOCK_TOKENS
from servingplan.simulate.prefixes import PART_TOKENS

Balancing = Literal["weights", "least-request", "round-robin", "prefix-aware"]
"""weights: as planned; least-request: the replica of the model with the fewest requests in flight; round-robin: all
replicas of the model in turn; prefix-aware: that with the best score of known prefix, queue and memory."""
PREFIX_WEIGHT, QUEUE_WEIGHT, MEMORY_WEIGHT = 3.0, 2.0, 2.0
REMEMBERED_PARTS = 31_250 * BLOCK_TOKENS // PART_TOKENS
Settle = Callable[[Replica, float], None]
"""Lets time pass in a replica."""


class Gateway:
    """Chooses among the replicas that are up."""

    def __init__(self, classes: Sequence[tuple[str, str]], balancing: Balancing, settle: Settle, *, seed: int) -> None:
        self._classes = classes
        self._balancing = balancing
        self._settle = settle
        self._chance = random.Random(seed)
        self._groups: list[list[list[Replica]]] = []
        self._weights: list[list[float]] = []
        self._buckets: dict[int, Bucket] = {}
        self._turns: Counter[int] = Counter()
        self._sent: dict[Replica, OrderedDict[int, None]] = defaultdict(OrderedDict)
        """The parts of prompts that a replica was sent, from the one that is forgotten first."""

    def route_by(self, document: Mapping[str, Any], fleet: Fleet, replicas: Sequence[Replica]) -> None:
        """Use a routing document from now on."""
        services: dict[str, list[Replica]] = defaultdict(list)
        models: dict[str, list[Replica]] = defaultdict(list)
        for replica in replicas:
            if replica.up:
                item = fleet.replica_sets[replica.place]
                services[item.deployment].append(replica)
                models[item.model].append(replica)
        entries = {(model, item["name"]): item for model, of in document["models"].items() for item in of["classes"]}
        self._groups, self._weights = [], []
        for number, key in enumerate(self._classes):
            entry = entries[key]
            if self._balancing == "weights":
                targets = [(services[target["service"]], target["weight"]) for target in entry["targets"]]
                targets = [(ready, weight) for ready, weight in targets if ready]
            else:
                targets = [(models[key[0]], 1)] if models[key[0]] else []
            self._groups.append([ready for ready, _ in targets])
            self._weights.append(list(accumulate(weight for _, weight in targets)))
            most = entry["admitRequestsPerSecond"]
            if most is None:
                self._buckets.pop(number, None)
            elif number not in self._buckets or self._buckets[number].per_second != most:
                self._buckets[number] = Bucket(most)

    def spread(self, replicas: Mapping[str, list[Replica]]) -> None:
        """Spread all classes of a model over these replicas equally, and turn no request away."""
        self._groups = [[replicas[model]] if replicas.get(model) else [] for model, _ in self._classes]
        self._weights = [[1.0] * len(groups) for groups in self._groups]
        self._buckets.clear()

    def serves(self, number: int) -> bool:
        """Whether a replica is up for a class, by its number. Where none is, a request gets 503, else at most 429."""
        return bool(self._groups[number])

    def choose(self, number: int, now: float, prefix: Sequence[int] = ()) -> Replica | None:
        """The replica for a request of a class, by its number; None if the request is turned away. ``prefix``: the names of
        the parts of its prompt."""
        groups = self._groups[number]
        if not groups:
            return None
        bucket = self._buckets.get(number)
        if bucket is not None and not bucket.takes(now):
            return None
        one = len(groups) == 1
        ready = groups[0] if one else self._chance.choices(groups, cum_weights=self._weights[number])[0]
        if self._balancing == "round-robin":
            self._turns[id(ready)] += 1  # one list for all classes of a model
            return ready[self._turns[id(ready)] % len(ready)]
        if self._balancing == "prefix-aware":
            return self._best(ready, now, prefix)
        return self._fewest(ready, now)

    def _fewest(self, ready: Sequence[Replica], now: float) -> Replica:
        """The replica with the fewest requests in flight; of equals, the first from a random position on."""
        if len(ready) == 1:
            return ready[0]
        best, least = ready[0], math.inf
        for replica in self._from_anywhere(ready, now):
            in_flight = len(replica.open)
            if in_flight < least:
                best, least = replica, in_flight
                if not in_flight:
                    break
        return best

    def _from_anywhere(self, ready: Sequence[Replica], now: float) -> Iterator[Replica]:
        """All replicas in their state of now, in turn from a random one on."""
        begin = int(self._chance.random() * len(ready))
        for replica in chain(ready[begin:], ready[:begin]):
            ends = replica.engine.next_time
            if ends is not None and ends <= now:
                self._settle(replica, now)
            yield replica

    def _best(self, ready: Sequence[Replica], now: float, prefix: Sequence[int]) -> Replica:
        """The replica with the highest score; of equals, the first from a random position on."""
        replicas = list(self._from_anywhere(ready, now))
        queues = [replica.engine.waiting for replica in replicas]
        longest, spread = max(queues), max(queues) - min(queues)
        best, most = replicas[0], -math.inf
        for replica, queue in zip(replicas, queues, strict=True):
            sent = self._sent[replica]
            known = next((at for at, part in enumerate(prefix) if part not in sent), len(prefix))
            score = PREFIX_WEIGHT * (known / len(prefix) if prefix else 0.0)
            score += QUEUE_WEIGHT * ((longest - queue) / spread if spread else 1.0)
            score += MEMORY_WEIGHT * (1.0 - replica.engine.kv_usage)
            if score > most:
                best, most = replica, score
        sent = self._sent[best]
        for part in prefix:
            sent[part] = None
            sent.move_to_end(part)
        while len(sent) > REMEMBERED_PARTS:
            sent.popitem(last=False)
        return best


class Bucket:
    """Envoy's local rate limit as our routing sets it: a bucket with the requests of one second, at least one."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._burst = max(1, math.ceil(per_second)) if per_second > 0 else 0
        self._period = self._burst / per_second if per_second > 0 else math.inf
        self._left, self._filled = self._burst, 0.0

    def takes(self, now: float) -> bool:
        """Whether a request at this time is admitted."""
        fills = (now - self._filled) // self._period
        if fills >= 1:
            self._filled += fills * self._period
            self._left = self._burst
        taken = self._left > 0
        self._left -= taken
        return taken
