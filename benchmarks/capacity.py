"""Changing capacity: the operator's own turns in the simulated cluster of the tests, on its clock.

    python -m benchmarks.capacity [--quick]

A tick of the clock is ten seconds. Solver, informers, reader and writer are the real ones; provider, kubelets and engines are
simulated, so the seconds below are what the operator waits for, not what its machine takes.
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from itertools import pairwise

from benchmarks.report import Row, Section, alone, percentile
from servingplan.rehearse.cluster import TICK_SECONDS
from tests.simulated.driver import Driver
from tests.simulated.plans import fixed, model, operator, plan, sized

CHEAP, OTHER = "l40s", "a100"
BOOT_TICKS, START_TICKS = 12, 6
"""Nodes take two minutes, engines one."""
LEAST_GAIN, LIFETIME_SECONDS = 0.05, 600
"""The defaults of `change.minGain` and `change.minLifetime`."""
STOCK = (0, 1, 2, 4, 1000)
"""Nodes that the market may have of a pool."""
ANSWER_TICKS = 6
"""An answer takes a minute."""


def measure(quick: bool) -> Section:
    """All rows."""
    rows = [*refusals(2 if quick else 20), *silence(), *idle_nodes(1 if quick else 8, 60 if quick else 360)]
    rows += [*flapping(600 if quick else 3600), *removals(100 if quick else 1000)]
    return Section(
        "Changing capacity",
        "The operator's own turns against the simulated cluster of the tests, in its time (ticks of 10 s; nodes boot in 120 s, "
        "engines start in 60 s). The market sells a random number of nodes of each of two pools, which changes every twenty "
        "minutes in the mean; the operator that knows the stock has it as its owner's ceiling of each pool, at every moment. "
        "A node serves nothing if no replica on it is ready, so booting engines count.",
        tuple(rows),
    )


def _two_pools(rate: str, **more: object) -> Driver:
    pools = [sized(CHEAP, price="2"), sized(OTHER, price="5")]
    return operator(
        plan(model(rate=rate), pools=pools, budget="40", **more), boot_ticks=BOOT_TICKS, start_ticks=START_TICKS
    )


def refusals(fleets: int) -> list[Row]:
    """A pool says that it has no more: how soon the other one is asked, and how often the first was."""
    waited, worked, asked = [], [], []
    for number in range(fleets):
        driver = _two_pools(str(12 + 2 * (number % 8)))
        cheap, other = driver.cluster.pools[CHEAP], driver.cluster.pools[OTHER]
        cheap.provider_has = number % 2
        since, begun = driver.cluster.seconds(), time.process_time()
        driver.act()
        while not other.wanted:
            driver.tick()
        worked.append(time.process_time() - begun)
        waited.append(driver.cluster.seconds() - since)
        driver.settle()
        asked.append(cheap.refusals)
    return [
        Row(f"a refusal is reported: wait until the other pool is asked, {fleets} fleets, most", f"{max(waited):.0f} s", "5 s",
            max(waited) <= 5),
        Row("processor time from the first turn of the plan until then, p50 and most",
            f"{percentile(worked, 50):.2f} s, {max(worked):.2f} s"),
        Row("refused sizes before the size came down, most", str(max(asked)), "3", max(asked) <= 3),
    ]  # fmt: skip


def silence() -> list[Row]:
    """Nodes just do not come: how long until the other pool is asked, before and after boots were seen."""
    rows = []
    for boot_ticks, learned in ((BOOT_TICKS, False), (BOOT_TICKS, True), (24, True)):
        driver = _two_pools("5" if learned else "10")
        cluster = driver.cluster
        cluster.boot_ticks = boot_ticks
        if learned:
            driver.settle()
        cheap, other = cluster.pools[CHEAP], cluster.pools[OTHER]
        cheap.provider_has, cheap.tells = len(cluster.nodes_of(CHEAP)), False
        cluster.edit({**cluster.spec, "models": [model(rate="14")]})
        since = cluster.seconds()
        driver.act()
        while not other.wanted:
            driver.tick()
        waited = cluster.seconds() - since
        boot = boot_ticks * TICK_SECONDS
        goal = 2 * boot if learned else 600
        what = f"after boots of {boot} s" if learned else "before any boot"
        rows.append(Row(f"nodes do not come, unsaid, {what}: wait until the other pool is asked", f"{waited:.0f} s",
                        f"{goal} s and a tick", waited <= goal + TICK_SECONDS))  # fmt: skip
    return rows


class Market:
    """A fleet on two pools whose stock changes, and what it paid and served."""

    def __init__(self, seed: int, *, told: bool) -> None:
        self.chance, self.told = random.Random(seed), told
        self.driver = _two_pools("20")
        self.idle_dollars = self.dollars = self.served = self.asked = 0.0

    def live(self, ticks: int) -> None:
        """Ticks in which stock and rates change, alike for operators that are told and that are not."""
        cluster = self.driver.cluster
        rate = 20
        for tick in range(ticks):
            for pool in cluster.pools.values():
                if self.chance.random() < TICK_SECONDS / 1200 or not tick:
                    pool.provider_has = self.chance.choice(STOCK)
                if self.told:
                    pool.max_nodes = max(pool.provider_has, len(cluster.nodes_of(pool.name)) + len(pool.booting))
            if self.chance.random() < TICK_SECONDS / 1800:
                rate = self.chance.choice((8, 20, 40))
                cluster.edit({**cluster.spec, "models": [model(rate=str(rate))]})
            self.driver.tick()
            self._count(rate)

    def _count(self, rate: float) -> None:
        cluster, hours = self.driver.cluster, TICK_SECONDS / 3600
        busy = {pod.node for pod in cluster.our_pods() if cluster.is_ready(pod)}
        prices = {item["name"]: float(item["dollarsPerNodeHour"]) for item in cluster.spec["nodePools"]}
        for name, price in prices.items():
            nodes = cluster.nodes_of(name)
            self.dollars += price * len(nodes) * hours
            self.idle_dollars += price * sum(node.name not in busy for node in nodes) * hours
        self.asked += rate
        self.served += min(rate, self.driver.serving_rate("llama-3.1-8b"))


def idle_nodes(markets: int, ticks: int) -> list[Row]:
    """Dollars for nodes that serve nothing, of an operator that learns the stock and of one that knows it."""
    lives = {told: [Market(seed, told=told) for seed in range(markets)] for told in (False, True)}
    for market in (*lives[False], *lives[True]):
        market.live(ticks)
    idle = {told: sum(market.idle_dollars for market in lives[told]) for told in lives}
    more = idle[False] / idle[True] - 1
    hours = markets * ticks * TICK_SECONDS / 3600

    def words(told: bool) -> str:
        paid = sum(market.dollars for market in lives[told])
        served = sum(market.served for market in lives[told]) / sum(market.asked for market in lives[told])
        return f"{idle[told]:.2f} of {paid:.2f} $, {served:.1%} of the requests served"

    return [
        Row(
            f"paid for nodes that serve nothing in {hours:.1f} h of {markets} markets, stock learned", words(told=False)
        ),
        Row("the same operator, which knows the stock", words(told=True)),
        Row("more than if it knows the stock", f"{more:+.1%}", "10 %", more < 0.10),
    ]


def flapping(seconds: int) -> list[Row]:
    """A node of a quarter of the price comes for 30 s and goes for 30 s, and so on."""
    pools = [sized(CHEAP), fixed(OTHER, price="0.5")]
    driver = operator(plan(model(rate="5"), pools=pools), start_ticks=1)
    driver.settle()
    cluster, taken, losses, late = driver.cluster, [*reversed(driver.cluster.status["history"])], 0, 0
    for number in range(seconds // 60):
        name = f"{OTHER}-{number}"
        for present in (True, False):
            if present:
                cluster.add_node(name, {"pool": OTHER}, 1)
            else:
                losses += any(pod.node == name and cluster.is_ready(pod) for pod in cluster.our_pods())
                cluster.lose_node(name)
                driver.act()
                late += not _weights_are_right(driver)
            for _ in range(3):
                driver.tick()
                if cluster.status["history"][0] != taken[-1]:
                    taken.append(cluster.status["history"][0])
    moves = [pair for pair in pairwise(taken) if pair[1]["reason"] == "Improvement"]
    ages = [_seconds(after["time"]) - _seconds(before["time"]) for before, after in moves]
    gains = [1 - float(after["dollarsPerHour"]) / float(before["dollarsPerHour"]) for before, after in moves]
    steady = all(age >= LIFETIME_SECONDS for age in ages) and all(gain >= LEAST_GAIN for gain in gains)
    return [
        Row(f"stock flaps each 30 s for {seconds} s: moves for a better price, youngest plan left, least gain",
            f"{len(moves)}, {min(ages, default=0):.0f} s, {min(gains, default=0):.0%}", "600 s, 5 %", steady),
        Row("losses of a serving node meanwhile, and those not answered before time passed", f"{losses}, {late}",
            "0 late", not late),
    ]  # fmt: skip


def _weights_are_right(driver: Driver) -> bool:
    """Whether nothing that cannot answer has a weight, and no class is without one that could be served."""
    try:
        driver.check_routing_at_rest()
    except AssertionError:
        return False
    return True


def _seconds(time_of_day: str) -> float:
    return datetime.fromisoformat(time_of_day).timestamp()


def removals(requests: int) -> list[Row]:
    """Replicas are removed as planned while answers of a minute are under way."""
    driver = operator(plan(model(rate="16"), pools=[sized(CHEAP)]), start_ticks=1)
    driver.settle()
    inside: dict[str, list[int]] = {}
    sent = lost = removed = tick = 0
    while sent < requests or any(inside.values()):
        if tick % 30 == 0 and sent < requests:
            driver.cluster.edit({**driver.cluster.spec, "models": [model(rate="4" if tick % 60 == 0 else "16")]})
        pods = {pod.uid: pod for pod in driver.cluster.our_pods()}
        open_to = [pod for pod in pods.values() if _takes_requests(driver, pod.uid)]
        for number in range(4 if sent < requests else 0):
            inside.setdefault(open_to[number % len(open_to)].uid, []).append(tick + ANSWER_TICKS)
            sent += 1
        for uid, pod in pods.items():
            inside[uid] = [ends for ends in inside.get(uid, ()) if ends > tick]
            pod.requests_inside = len(inside[uid])
        driver.tick()
        there = {pod.uid for pod in driver.cluster.our_pods() if not pod.terminating}
        for uid in set(inside) - there:
            lost += len(inside.pop(uid))
            removed += 1
        tick += 1
    return [Row(f"requests lost in {removed} planned removals, of {sent} with answers of {ANSWER_TICKS * TICK_SECONDS} s",
                str(lost), "0", not lost)]  # fmt: skip


def _takes_requests(driver: Driver, uid: str) -> bool:
    """Whether the gateway sends a pod requests: its Service has a weight and its EndpointSlice lists it."""
    cluster = driver.cluster
    pod = next(pod for pod in cluster.our_pods() if pod.uid == uid)
    document = driver.routing() or {"models": {}}
    services = {
        target["service"]
        for item in document["models"].values()
        for entry in item["classes"]
        for target in entry["targets"]
    }
    open_to = pod.serving and pod.draining_since is None and not pod.terminating
    return open_to and pod.deployment in services and cluster.is_ready(pod) and cluster.is_listed(pod)


if __name__ == "__main__":
    alone(measure)
