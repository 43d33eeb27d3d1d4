"""When turns are taken: what wakes a plan, how long failures wait, and what tells a turn that hangs."""

import asyncio
from dataclasses import replace

import pytest

from servingplan import solvers
from servingplan.decide.replan import HURRIED_SECONDS
from servingplan.errors import ApiError
from servingplan.loop import LONGEST_RETRY_SECONDS, TURN_SECONDS, Alarm, Interest, Loop, Pauses, UnderWay
from servingplan.metrics.exporter import Exporter
from servingplan.model.world import DeviceClass
from servingplan.observe.devices import SeenClaim, SeenDevices
from servingplan.observe.pods import seen_slice
from servingplan.observe.state import News, _news
from servingplan.reconcile import TurnReport

INTEREST = Interest(
    namespace="llm",
    label="chat",
    selectors=({"pool": "a"},),
    nodes=frozenset({"n1"}),
    profiles=frozenset({"rates"}),
)


def slice_of(*ready, namespace="llm", plan="chat", **metadata):
    labels = {"servingplan.dev/plan": plan, "kubernetes.io/service-name": "chat-m"}
    return {
        "metadata": {"name": "x", "uid": "u", "namespace": namespace, "labels": labels, **metadata},
        "endpoints": [{"targetRef": {"kind": "Pod", "uid": uid}, "conditions": {"ready": True}} for uid in ready],
    }


@pytest.mark.parametrize(
    ("item", "wakes"),
    [(slice_of(), True), (slice_of(plan="other"), False), (slice_of(namespace="elsewhere"), False)],
)
def test_endpoint_slices_wake_their_own_plan_alone(item, wakes):
    assert INTEREST.concerns(_news("EndpointSlices", seen_slice(item))) is wakes


@pytest.mark.parametrize(
    ("news", "wakes"),
    [
        (News("nodes", node="n1"), True),
        (News("nodes", node="n9", labels={"pool": "a", "zone": "z"}), True),
        (News("nodes", node="n9", labels={"pool": "b"}), False),
        (News("pods", "elsewhere", None, node="n1"), True),
        (News("pods", "elsewhere", None, node="n9"), False),
        (News("pods", "llm", "chat"), True),
        (News("pools"), True),
        (News("catalogues"), True),
        (News("plans", "llm", "other"), False),
        (News("profiles", "llm", name="rates"), True),
        (News("profiles", "llm", name="others"), False),
        (News("profiles", "elsewhere", name="rates"), False),
    ],
)
def test_a_plan_is_woken_by_what_its_turns_read_and_by_nothing_else(news, wakes):
    assert INTEREST.concerns(news) is wakes


@pytest.mark.parametrize(
    ("source", "facts", "on_devices", "otherwise"),
    [
        ("ResourceSlices", SeenDevices("n1", "d.e", "n1", 1, 1, ()), True, True),
        ("ResourceSlices", SeenDevices("n9", "d.e", "n9", 1, 1, ()), False, False),
        ("ResourceClaims", SeenClaim("elsewhere", None, frozenset()), True, False),
        ("ResourceClaims", SeenClaim("llm", "chat", frozenset()), True, True),
        ("DeviceClasses", DeviceClass(name="x"), True, False),
    ],
)
def test_devices_wake_the_plans_that_count_them(source, facts, on_devices, otherwise):
    news = _news(source, facts)
    assert replace(INTEREST, devices=True).concerns(news) is on_devices
    assert INTEREST.concerns(news) is otherwise


def test_a_failing_turn_is_tried_again_later_and_later_and_a_good_one_resets_that():
    pauses = Pauses(15.0)
    waits = [pauses.after_failure(RuntimeError()) for _ in range(8)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert waits[-1] == LONGEST_RETRY_SECONDS
    assert pauses.after(TurnReport()) == 15.0
    assert pauses.after_failure(RuntimeError()) == 1.0


def test_an_api_server_that_asks_to_be_left_alone_is_left_alone():
    error = ApiError(429, "TooManyRequests", "busy")
    error.retry_after_seconds = 7.0
    assert Pauses(15.0).after_failure(error) == 7.0


def test_a_turn_that_takes_longer_than_all_that_it_may_wait_for_is_hanging():
    now = [0.0]
    under_way = UnderWay(lambda: now[0])
    with under_way.turn(("llm", "chat")):
        now[0] = TURN_SECONDS - 1
        assert under_way.hanging() == []
        now[0] = TURN_SECONDS + 1
        assert under_way.hanging() == ["llm/chat"]
    assert under_way.hanging() == []


def test_a_search_in_haste_that_hangs_is_ended_before_its_turn_is_said_to_hang():
    assert solvers.GRACE_SECONDS + solvers.START_SECONDS + HURRIED_SECONDS < TURN_SECONDS


class Stopped:
    """A daemon's end, as kopf tells it."""

    def __init__(self):
        self.event = asyncio.Event()

    def __bool__(self):
        return self.event.is_set()

    async def wait(self, timeout=None):
        try:
            await asyncio.wait_for(self.event.wait(), timeout)
        except TimeoutError:
            return


class Turns:
    """Each turn does what the next of ``script`` says; the last one ends the loop."""

    def __init__(self, script, stopped):
        self.script, self.stopped, self.taken, self.inside = list(script), stopped, 0, 0
        self.first = asyncio.Event()

    async def take(self):
        self.inside += 1
        assert self.inside == 1, "two turns of one plan at a time"
        await asyncio.sleep(0)
        self.inside -= 1
        self.taken += 1
        self.first.set()
        step = self.script.pop(0)
        if not self.script:
            self.stopped.event.set()
        if isinstance(step, Exception):
            raise step
        return step

    def stop(self):
        self.ended = True

    async def retire(self, uid):
        return await self.take()


def loop_of(turns, settled=lambda seconds: True):
    return Loop(
        alarm=Alarm(asyncio.get_running_loop()),
        turns=lambda namespace, name, metrics: turns,
        exporter=Exporter(),
        period_seconds=0.2,
        settled=settled,
        under_way=UnderWay(),
    )


async def test_nothing_is_decided_before_the_cluster_is_known():
    stopped = Stopped()
    turns = Turns([TurnReport()], stopped)
    asked = []

    def settled(seconds):
        asked.append(turns.taken)
        return len(asked) == 3

    await loop_of(turns, settled).look_after(namespace="llm", name="chat", uid="u", stopped=stopped)
    assert (asked, turns.taken) == ([0, 0, 0], 1)


async def test_whatever_a_turn_raises_another_one_follows():
    stopped = Stopped()
    turns = Turns([RuntimeError("x"), TurnReport()], stopped)
    await loop_of(turns).look_after(namespace="llm", name="chat", uid="u", stopped=stopped)
    assert turns.taken == 2


async def test_a_retirement_that_fails_goes_on_until_the_plan_is_gone():
    turns = Turns([RuntimeError("x"), TurnReport(again=True), TurnReport(gone=True)], Stopped())
    await loop_of(turns).retire(namespace="llm", name="chat", uid="u")
    assert turns.taken == 3


async def test_a_plan_that_is_written_is_looked_at_at_once():
    stopped = Stopped()
    turns = Turns([TurnReport(), TurnReport()], stopped)
    loop = loop_of(turns)
    loop._period_seconds = 3600.0
    task = asyncio.create_task(loop.look_after(namespace="llm", name="chat", uid="u", stopped=stopped))
    await turns.first.wait()
    loop.changed("llm", "chat")
    await asyncio.wait_for(task, 60)
    assert turns.taken == 2


async def test_one_answer_that_the_plan_is_gone_is_not_believed():
    """A plan that nobody looks after any more would be lost: kopf starts its daemon once."""
    stopped = Stopped()
    turns = Turns([TurnReport(gone=True), TurnReport(), TurnReport()], stopped)
    await loop_of(turns).look_after(namespace="llm", name="chat", uid="u", stopped=stopped)
    assert (turns.taken, turns.ended) == (3, True)


async def test_a_plan_that_is_gone_is_not_looked_after():
    turns = Turns([TurnReport(gone=True), TurnReport(gone=True), TurnReport()], Stopped())
    await loop_of(turns).look_after(namespace="llm", name="chat", uid="u", stopped=Stopped())
    assert (turns.taken, turns.ended) == (2, True)
