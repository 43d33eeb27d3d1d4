"""Long random histories from a seed: a fleet, what befalls it, and an API server that is slow, busy, away, or forgetful.

At every write and every look of the operator the driver checks what must hold. Then the world holds still, and the fleet must
be what is planned within ``MOST_TICKS_TO_REST``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from servingplan.errors import ApiError, api_error
from servingplan.rehearse.api_server import LOST, Key
from servingplan.rehearse.cluster import TICK_SECONDS
from tests.simulated.driver import Driver
from tests.simulated.plans import fixed, model, operator, plan, sized

MOST_TICKS_TO_REST = 600
"""From the moment at which the world holds still; a tick is ten seconds."""
STEPS = 6, 16
"""Fewest and most things that happen."""
RATES = ("0", "4", "10", "16")
BUDGETS = ("0", "5", "14", "30")
PRICES = ("1.5", "2", "6")
IMAGES = ("v1", "v2", "v3")
ERRORS = (
    (409, "Conflict", "the object has been modified"),
    (429, "TooManyRequests", "too many requests"),
    (500, "InternalError", "etcdserver: request timed out"),
    (503, "ServiceUnavailable", "apiserver is shutting down"),
    (LOST.status, LOST.reason, LOST.message),
)
DRA = {"dra": {"deviceClass": "gpu.nvidia.com"}}
WATCHED = ("Node", "Pod", "NodePool", "EndpointSlice", "Deployment", "LeaderWorkerSet", "ConfigMap", "LLMServingPlan")
WATCHED_DEVICES = (*WATCHED, "ResourceSlice", "ResourceClaim", "ResourceClaimTemplate", "DeviceClass")
LARGE = "llama-3.1-405b"

Json = dict[str, Any]


class History:
    """One life of a fleet."""

    rates_asked: ClassVar[Mapping[str, tuple[str, ...]]] = {"llama-3.1-8b": RATES, "qwen3-8b": RATES}
    """The rates that people may ask for, by model."""
    leader_worker_sets = False
    devices = False
    watched: ClassVar[tuple[str, ...]] = WATCHED

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.rates = self.first_rates()
        self.image, self.budget, self.price = "v1", "30", "2"
        self.fixed = chance.random() < 0.4
        times = {
            "boot_ticks": chance.randint(0, 4),
            "start_ticks": chance.randint(0, 4),
            "stop_ticks": chance.randint(0, 3),
            "slice_ticks": chance.randint(0, 2),
            "controllers_keep_up": chance.random() < 0.5,
        }
        sets = self.leader_worker_sets
        slow = seed % 3 == 0
        self.driver: Driver = operator(
            self.spec(), nodes=2, slow=slow, leader_worker_sets=sets, devices=self.devices, **times
        )
        self.cluster, self.api = self.driver.cluster, self.driver.cluster.api
        self.foreign: list[str] = []
        self.ticks_to_rest = 0

    def first_rates(self) -> dict[str, str]:
        """The rates at the start, by model."""
        return {"llama-3.1-8b": "10", "qwen3-8b": "4"}

    def spec(self) -> Json:
        """The plan as people want it now."""
        models = [
            model(name, rate, priority=index, engine={"image": self.image, "startupSeconds": 120})
            for index, (name, rate) in enumerate(self.rates.items())
        ]
        second = fixed("a100", gpus=2, price="6") if self.fixed else sized("h100", gpus=2, price="9", maxNodes=3)
        return plan(*models, pools=[sized(price=self.price), second], budget=self.budget)

    def live(self) -> History:
        """From the first turn to rest. An assertion that fails names the seed."""
        try:
            self.driver.sees_all = False
            for _ in range(self.chance.randint(*STEPS)):
                self._happen()
                self._trouble()
                for _ in range(self.chance.randint(0, 5)):
                    self._turns()
                    self.driver.pass_time()
            self._hold_still()
        except Exception as error:
            told = "\n".join(self.driver.history[-60:])
            again = (
                f"{type(self).__name__}, seed {self.seed}; again: HISTORIES=1 FIRST_HISTORY={self.seed} make histories"
            )
            raise AssertionError(f"{again}\n{type(error).__name__}: {error}\n{told}") from error
        return self

    def _hold_still(self) -> None:
        """Nothing happens any more, and the API server is well."""
        self._well()
        self.driver.dies_in = None
        self.cluster.silent_drivers.clear()
        for node in self.cluster.nodes.values():
            node.ready = True
        # Where some replicas serve and others of their kind crash, those are started again for ever: no rest.
        self.cluster.crashes = lambda pod: None
        self.cluster.run_controllers()
        self.driver.attempt()  # an informer whose version was forgotten lists at its next try
        before = self.cluster.now
        self.driver.settle(most_ticks=MOST_TICKS_TO_REST)
        # What was let go by a late view has its time until then to be put right.
        self.driver.sees_all = True
        self.driver.check()
        self.ticks_to_rest = int((self.cluster.now - before).total_seconds() // TICK_SECONDS)
        self.driver.check_settled()

    # --- what the operator does -------------------------------------------------------------------------------------

    def _turns(self) -> None:
        """A few, some of which the operator does not survive."""
        for _ in range(self.chance.randint(1, 3)):
            self.driver.dies_in = self.chance.randint(0, 5) if self.chance.random() < 0.06 else None
            self.driver.attempt()
            self._change_what_is_withheld()

    # --- what happens in the world -------------------------------------------------------------------------------------

    def _happen(self) -> None:
        happenings: tuple[Callable[[], None], ...] = (
            *(self._rate, self._rate, self._budget, self._price, self._image),
            *(self._lose, self._lose, self._silent, self._speak, self._cordon, self._drain),
            *(self._foreign, self._leave, self._refuse, self._sell, self._blind, self._crashing, self._scaled),
        )
        happening = self.chance.choice(happenings)
        self.driver.history.append(f"** {happening.__name__.removeprefix('_')}")
        happening()
        self.cluster.edit(self.spec())

    def _node(self) -> str | None:
        return self.chance.choice(sorted(self.cluster.nodes)) if self.cluster.nodes else None

    def _rate(self) -> None:
        name = self.chance.choice(sorted(self.rates))
        self.rates[name] = self.chance.choice(self.rates_asked[name])

    def _budget(self) -> None:
        self.budget = self.chance.choice(BUDGETS)

    def _price(self) -> None:
        self.price = self.chance.choice(PRICES)

    def _image(self) -> None:
        self.image = self.chance.choice(IMAGES)

    def _lose(self) -> None:
        if (node := self._node()) is not None:
            self.cluster.lose_node(node)

    def _silent(self) -> None:
        if (node := self._node()) is not None:
            self.cluster.nodes[node].ready = False

    def _speak(self) -> None:
        for node in self.cluster.nodes.values():
            node.ready = True

    def _cordon(self) -> None:
        if (node := self._node()) is not None:
            self.cluster.nodes[node].schedulable = not self.cluster.nodes[node].schedulable

    def _drain(self) -> None:
        if (node := self._node()) is not None:
            self.cluster.nodes[node].schedulable = False
            for pod in [pod for pod in self.cluster.our_pods() if pod.node == node]:
                self.cluster.delete_pod(pod)

    def _foreign(self) -> None:
        self.cluster.run_controllers()
        if (node := self._node()) is not None and self.cluster.free_gpus(node) > 0:
            self.foreign.append(self.cluster.add_foreign_pod(node, 1))

    def _leave(self) -> None:
        for name in self.foreign:
            if name in self.cluster.pods:
                self.cluster.delete_pod(self.cluster.pods[name])
        self.foreign.clear()

    def _refuse(self) -> None:
        pool = self.chance.choice(list(self.cluster.pools.values()))
        pool.provider_has, pool.tells = self.chance.randint(0, 2), self.chance.random() < 0.8
        self.cluster.run_controllers()

    def _sell(self) -> None:
        for pool in self.cluster.pools.values():
            pool.provider_has, pool.blind = 1000, False
        self.cluster.run_controllers()

    def _blind(self) -> None:
        self.chance.choice(list(self.cluster.pools.values())).blind = True

    def _crashing(self) -> None:
        ill = self.chance.choice([None, {"pool": "l40s"}])
        self.cluster.crashes = lambda pod: "Error (exit code 1)" if pod.selector == ill else None

    def _scaled(self) -> None:
        """Somebody else's autoscaler."""
        deployments = self.driver.deployments()
        if deployments:
            self.cluster.scale(self.chance.choice(deployments), self.chance.randint(0, 4), "hpa")

    # --- what happens to the API server ---------------------------------------------------------------------------------

    def _trouble(self) -> None:
        self._well()
        chance, api = self.chance, self.api
        trouble = chance.choice(
            ("none", "none", "busy", "slow", "cut off", "forgets", "away", "out of order", "answers lost")
        )
        self.driver.history.append(f"** API server: {trouble}")
        match trouble:
            case "busy":
                api.refuses = self._sometimes(0.15)
            case "slow":
                self._slow = True
                self._change_what_is_withheld()
            case "cut off":
                api.tells_at_most = chance.randint(0, 3)
            case "forgets":
                api.compact()
            case "away":
                api.refuses = self._sometimes(1.0)
            case "out of order":
                api.repeats = lambda kind: 3
            case "answers lost":
                api.loses = lambda verb, key: chance.random() < 0.2
                self._slow = True
                self._change_what_is_withheld()

    def _well(self) -> None:
        self._slow = False
        self.api.refuses, self.api.loses = (lambda verb, key: None), (lambda verb, key: False)
        self.api.withheld, self.api.repeats = (lambda kind: 0), (lambda kind: 0)
        self.api.tells_at_most = None

    def _sometimes(self, share: float) -> Callable[[str, Key], ApiError | None]:
        def answer(verb: str, key: Key) -> ApiError | None:
            if self.chance.random() >= share:
                return None
            return api_error(*self.chance.choice(ERRORS if share < 1 else ERRORS[-2:]))

        return answer

    def _change_what_is_withheld(self) -> None:
        if self._slow:
            late = {kind: self.chance.choice((0, 0, 1, 3, 100)) for kind in self.watched}
            self.api.withheld = lambda kind: late.get(kind, 0)


class GroupHistory(History):
    """One life of a fleet with a model that needs two nodes for each replica."""

    rates_asked: ClassVar[Mapping[str, tuple[str, ...]]] = {"llama-3.1-8b": RATES, LARGE: ("0", "1", "3", "5")}
    leader_worker_sets = True

    def first_rates(self) -> dict[str, str]:
        """The rates at the start, by model."""
        return {"llama-3.1-8b": "4", LARGE: "1"}

    def spec(self) -> Json:
        """The plan as people want it now."""
        engine = {"version": "0.18.0", "image": self.image, "startupSeconds": 120}
        slow = {"ttftSeconds": "10", "tpotSeconds": "0.3"}
        models = [
            {**model(name, rate, priority=index, engine=engine), **({"slo": slow} if name == LARGE else {})}
            for index, (name, rate) in enumerate(self.rates.items())
        ]
        make = fixed if self.fixed else partial(sized, maxNodes=5)
        second = make("a100", gpus=8, price="6", zone="z1")
        return plan(*models, pools=[sized(price=self.price), second], budget=self.budget)


class DeviceHistory(History):
    """One life of a fleet whose GPUs are devices, which their drivers do not publish all the time."""

    devices = True
    watched = WATCHED_DEVICES

    def spec(self) -> Json:
        """The plan as people want it now."""
        found = super().spec()
        return {**found, "nodePools": [{**pool, **DRA} for pool in found["nodePools"]]}

    def _silent(self) -> None:
        """The driver of a node is away, or the node."""
        if (node := self._node()) is not None and self.chance.random() < 0.6:
            self.cluster.silent_drivers.add(node)
        else:
            super()._silent()

    def _speak(self) -> None:
        super()._speak()
        self.cluster.silent_drivers.clear()
