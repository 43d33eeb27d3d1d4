"""Twice what the budget, or what is ready, serves, through a real Envoy to emulated engines: the top priority keeps its limits,
and what there is no room for is turned away at once instead of waiting."""

import asyncio
import json
import math
import random
import threading
from collections import Counter, defaultdict, deque
from contextlib import suppress

import pytest

from e2e.support.gateway import Gateway, read_answer, request
from servingplan.answering import solve_with
from servingplan.api.parse import parse_spec
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.emulate.arguments import shape
from servingplan.emulate.launch import Emulation, Options
from servingplan.emulate.pacer import Clock
from servingplan.planning.situation import Situation
from servingplan.routing.document import routing_document

TOP, LOW = "llama-3.1-8b", "qwen3-8b"
SECONDS = 15
TTFT, TPOT = 1.0, 0.1
"""Both are bounds of the engines' histograms, which tell how many requests were within."""
TOP_RATE = 5.0
AT_ONCE = 15
"""Requests that may wait for an iteration together: an admission lets those of a second pass at once, ten or so."""
FORGIVEN_SECONDS = 0.25
"""By which a request may be late before those after it are, too: when the machine stands still, that is no surge."""


def plan(low_rate, *, top_rate=TOP_RATE, dollars_per_hour=4):
    """Nodes of one GPU for 2 $/h each; by default no money for a third."""

    def model(name, priority, rate):
        chat = {"name": "chat", "inputTokens": 496, "outputTokens": 64, "requestsPerSecond": f"{rate:g}"}
        limits = {"ttftSeconds": f"{TTFT:g}", "tpotSeconds": f"{TPOT:g}"}
        return {"name": name, "priority": priority, "slo": limits, "classes": [chat]}

    pool = {"name": "l40s", "gpu": "L40S", "gpusPerNode": 1, "dollarsPerNodeHour": "2", "maxNodes": 5}
    resize = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "l40s"}
    return {
        "metadata": {"name": "chat", "namespace": "llm"},
        "spec": {
            "budget": {"dollarsPerHour": f"{dollars_per_hour}"},
            "models": [model(TOP, 100, top_rate), model(LOW, 10, low_rate)],
            "nodePools": [{**pool, "nodeSelector": {"pool": "l40s"}, "resize": resize}],
        },
    }


def decided(manifest, *, most_ready=None):
    """The fleet of the plan, and the routing document with all of it ready, or so many replicas of each Deployment."""
    world = imagined_world(manifest)
    fleet = decide(Situation(world), solve_with(120)).fleet
    sets = fleet.replica_sets
    document = routing_document(
        plan=world.plan,
        spec=parse_spec(manifest["spec"])[0],
        fleet=fleet,
        facts={item.deployment: item.facts for item in sets},
        ready={item.deployment: min(item.replicas, most_ready or item.replicas) for item in sets},
        previous=None,
        measured={f"{item.model}/{item.name}" for item in fleet.classes},
    )
    return fleet, document


class ArrivalClock(Clock):
    """The engines' clock. Requests arrive when they were sent, however long this machine takes to carry them.

    Those of a model are taken or refused in the order in which they were sent, or nearly so.
    """

    def __init__(self):
        super().__init__()
        self.on_their_way = defaultdict(deque)
        """When they were sent, by model."""

    def now(self):
        return min((sent[0] for sent in self.on_their_way.values() if sent), default=self.present())

    def present(self):
        return super().now()


class Engines:
    """One emulated engine behind each Service, on a loop of their own, and a load; notes the longest queue."""

    def __init__(self, fleet):
        self.sets = fleet.replica_sets
        self.longest_queue = Counter()
        self.moments = {item.model: [] for item in self.sets}
        """When each request was sent, and when it was taken or refused."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        shapes = [
            shape(model=item.model, gpu=item.gpu, tensor_parallel=item.tensor_parallel, max_model_len=1120)
            for item in self.sets
        ]
        self._emulation = Emulation(shapes, Options(), names=[item.deployment for item in self.sets])
        self._run(self._open())
        return self

    def __exit__(self, *_):
        self._run(self._emulation.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self):
        await self._emulation.__aenter__()
        self._clock = self._emulation.pacer.clock = ArrivalClock()
        self.copies = {item.model: copy for item, copy in zip(self.sets, self._emulation.copies, strict=True)}
        for model, copy in self.copies.items():
            copy.live.admit = self._noting(model, copy.live)

    def _noting(self, model, live):
        admit = live.admit

        def noting(*arguments, **more):
            ticket = admit(*arguments, **more)
            self.longest_queue[model] = max(self.longest_queue[model], live.engine.waiting)
            self._decided(model)
            return ticket

        return noting

    def _decided(self, model):
        """The oldest request on its way is with an engine, or refused."""
        self.moments[model].append((self._clock.on_their_way[model].popleft(), self._clock.present()))

    def load(self, port, rates):
        """The answers by model to Poisson arrivals, as many as come in ``SECONDS``."""
        return self._run(self._load(port, rates))

    async def _load(self, port, rates):
        chance, answers, tasks = random.Random(11), {model: [] for model in rates}, []
        due = self._clock.present()
        for _ in range(round(SECONDS * sum(rates.values()))):
            due = max(due, self._clock.present() - FORGIVEN_SECONDS) + chance.expovariate(sum(rates.values()))
            await asyncio.sleep(due - self._clock.present())
            (model,) = chance.choices(list(rates), list(rates.values()))
            self._clock.on_their_way[model].append(self._clock.present())
            tasks.append(asyncio.create_task(self._ask(port, model, answers[model])))
        await asyncio.gather(*tasks)
        return answers

    async def _ask(self, port, model, answers):
        body = {"model": model, "messages": [{"role": "user", "content": "word" * 496}], "max_tokens": 64}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(json.dumps(body).encode()))
        answers.append((await read_answer(reader))[0])
        if answers[-1].status != 200:
            self._decided(model)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def admissible(self, model, rate):
        """How many of the requests an admission of so many per second lets pass, at least and at most."""
        sent, decided = zip(*self.moments[model], strict=True)
        least = min(_through_a_bucket(sent, rate), _through_a_bucket(decided, rate))
        return 0.7 * least, rate * (decided[-1] - sent[0] + 2) + 1

    def share_in_time(self, model):
        """By the engine's own histograms, the smaller of the shares within TTFT and TPOT."""
        tally = self.copies[model].live.engine.tally
        return min(_share_below(tally.first_token, TTFT), _share_below(tally.per_output_token, TPOT))


def _share_below(histogram, bound):
    within = histogram.counts[: histogram.bounds.index(bound) + 1]
    return sum(within) / histogram.count


def _through_a_bucket(moments, rate):
    """Of one that holds what comes in a second, and is full at first."""
    passed, tokens, before = 0, math.ceil(rate), moments[0]
    for moment in moments:
        tokens, before = min(math.ceil(rate), tokens + rate * (moment - before)), moment
        if tokens >= 1:
            passed, tokens = passed + 1, tokens - 1
    return passed


@pytest.fixture(scope="module")
def overload(tmp_path_factory):
    _, fully = decided(plan(100))
    served_of_low = fully["models"][LOW]["classes"][0]["admitRequestsPerSecond"]
    rates = {TOP: TOP_RATE, LOW: 2 * (TOP_RATE + served_of_low) - TOP_RATE}
    fleet, document = decided(plan(rates[LOW]))
    return fleet, document, *served(tmp_path_factory.mktemp("overload"), fleet, document, rates)


def served(folder, fleet, document, rates):
    """The engines and the answers after so long under the load."""
    with Engines(fleet) as engines:
        ports = {item.deployment: engines.copies[item.model].port for item in fleet.replica_sets}
        with Gateway(folder, document, ports) as gateway:
            gateway.follow(document["revision"])
            answers = engines.load(gateway.port, rates)
    return engines, answers


def test_the_plan_spends_the_budget_and_serves_the_top_priority_in_full(overload):
    fleet, document, _, _ = overload
    assert fleet.dollars_per_hour == 4
    assert [item.replicas for item in fleet.replica_sets] == [1, 1]
    admitted = {name: entry["classes"][0]["admitRequestsPerSecond"] for name, entry in document["models"].items()}
    assert admitted[TOP] is None
    assert admitted[LOW] > 1


def test_the_top_priority_keeps_its_limits(overload):
    _, _, engines, answers = overload
    assert {answer.status for answer in answers[TOP]} == {200}
    assert len(answers[TOP]) > 0.7 * TOP_RATE * SECONDS
    assert engines.share_in_time(TOP) >= 0.95


def test_the_rest_is_turned_away_with_a_time_to_come_again(overload):
    _, document, engines, answers = overload
    admitted = document["models"][LOW]["classes"][0]["admitRequestsPerSecond"]
    statuses = Counter(answer.status for answer in answers[LOW])
    assert set(statuses) == {200, 429}
    least, most = engines.admissible(LOW, admitted)
    assert least <= statuses[200] <= most
    for answer in answers[LOW]:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.error["code"] == "rate_limit_exceeded"


def test_nothing_queues(overload):
    _, _, engines, _ = overload
    assert engines.share_in_time(LOW) >= 0.95, "what is admitted is served in time"
    assert max(engines.longest_queue.values()) <= AT_ONCE


def test_while_a_surge_waits_for_its_replicas_the_one_that_is_ready_keeps_its_limits(tmp_path):
    fleet, document = decided(plan(0, top_rate=100, dollars_per_hour=40), most_ready=1)
    (growing,) = fleet.replica_sets
    assert growing.replicas > 2
    rate = document["models"][TOP]["classes"][0]["admitRequestsPerSecond"]
    assert 1 < rate < 100 / growing.replicas
    engines, answers = served(tmp_path, fleet, document, {TOP: 2 * rate})
    statuses = Counter(answer.status for answer in answers[TOP])
    assert set(statuses) == {200, 429}
    least, most = engines.admissible(TOP, rate)
    assert least <= statuses[200] <= most
    assert engines.share_in_time(TOP) >= 0.95
    assert engines.longest_queue[TOP] <= AT_ONCE
