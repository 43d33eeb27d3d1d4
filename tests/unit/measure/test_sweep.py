"""Sweeps against servers whose queueing is known, over real sockets on a virtual clock: capacity is slots over service time."""

import asyncio
import itertools
import math

import aiohttp
import pytest
from aiohttp import web

from servingplan.emulate.arguments import shape
from servingplan.emulate.launch import Emulation, Options
from servingplan.errors import InputError
from servingplan.measure import figures
from servingplan.measure.request import Endpoint
from servingplan.measure.sweep import Lengths, Limits, sweep
from servingplan.simulate.engine import Engine
from tests.unit.measure.servers import Queue, served
from tests.unit.measure.virtual_time import run

CHAT = Lengths("chat", 40, 2)
SHORT = Limits(requests=700, requests_a_load=50)
TO_THE_KNEE = 700 - 5 * 50
"""Requests after which the loads below the knee have begun: the rest is kept back for them."""


async def swept(url, lengths=CHAT, limits=SHORT, *, model="m", stop_at=None, **options):
    stopped = asyncio.Event()

    def report(what, _done, _all):
        if stop_at is not None and what.startswith(stop_at):
            stopped.set()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        endpoint = Endpoint(url, model, session, **options)
        return await sweep(endpoint, lengths, limits, seed=0, stopped=stopped, report=report)


def measured(queue, **options):
    async def go():
        async with served(queue) as url:
            return await swept(url, **options)

    return run(go())


def test_the_knee_of_slots_with_constant_service_is_found_within_five_per_cent():
    queue = Queue(slots=4, service_seconds=0.4)
    found = measured(queue)
    assert found.stopped is None
    assert found.knee.completed.value == pytest.approx(queue.capacity, rel=0.05)
    assert found.knee.completed.low < queue.capacity * 1.02
    below = [point for point in found.points if not point.saturated]
    assert len(below) == 5
    for point in below:
        assert point.completed.value == pytest.approx(point.offered.value, rel=0.2)  # it keeps up
        assert math.fsum(point.tpot) / len(point.tpot) == pytest.approx(0.2)
    waits = [math.fsum(point.ttft) / len(point.ttft) for point in below]
    assert waits[0] == pytest.approx(0.2, rel=0.1)  # alone
    assert waits[-1] > 1.05 * waits[0]  # with a queue
    assert {round(point.prompt_tokens) for point in found.points} <= {39, 40, 41}  # by the server's count


@pytest.mark.slow
def test_the_knee_of_slots_with_exponential_service_is_found_within_five_per_cent():
    queue = Queue(slots=8, service_seconds=0.4, exponential=True)
    found = measured(queue, limits=Limits(requests=3500, requests_a_load=50))
    assert found.knee.completed.value == pytest.approx(queue.capacity, rel=0.05)
    assert found.knee.completed.low <= queue.capacity <= found.knee.completed.high * 1.02


def test_one_slot_is_found_too():
    queue = Queue(slots=1, service_seconds=1.0)
    found = measured(queue)
    assert found.knee.completed.value == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_the_knee_of_an_emulated_engine_is_that_of_the_engine():
    replica = shape(model="llama-3.1-8b", gpu="L40S", max_num_seqs=16, max_num_batched_tokens=2048, max_model_len=4096)
    lengths = Lengths("chat", 500, 50)

    async def go():
        async with Emulation([replica], Options()) as emulation:
            url = f"http://127.0.0.1:{emulation.copies[0].port}/v1"
            return await swept(url, lengths, Limits(requests=700, requests_a_load=40), model="llama-3.1-8b")

    found = run(go())
    engine = Engine(replica.pace, max_num_seqs=16, max_num_batched_tokens=2048)
    prompt = round(found.knee.prompt_tokens)
    assert prompt == pytest.approx(500, rel=0.03)
    ends = []
    for _ in range(400):
        engine.admit(prompt, 50, 0.0)
    while not engine.idle:
        ends += [engine.next_time] * len(engine.advance(engine.next_time))
    truth = 200 / (ends[299] - ends[99])
    assert found.knee.completed.value == pytest.approx(truth, rel=0.05)


async def refuse(status, headers=None):
    return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)


async def dies(queue, request, count):
    for site in list(queue.runner.sites):
        await site.stop()
    request.transport.close()
    return web.Response()


async def stalls(_queue, _request, _count):
    await asyncio.sleep(1e6)


async def limits(_queue, _request, _count):
    return await refuse(429, {"Retry-After": "7"})


async def fails(_queue, _request, _count):
    return await refuse(500)


async def garbage(_queue, _request, _count):
    return web.Response(text="<html>hello</html>", content_type="text/html")


async def broken_stream(_queue, _request, _count):
    return web.Response(text='data: {"choices": [{"text": "x"}]}\n\ndata: {"choi', content_type="text/event-stream")


async def renames(queue, _request, _count):
    queue.model = "another"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (dies, "the endpoint"),
        (stalls, "stalled: nothing came for 60 s"),
        (limits, "limits its rate: 429, Retry-After 7 s"),
        (fails, "error: 500"),
        (garbage, "no stream of completions"),
        (broken_stream, "the endpoint"),
        (renames, "another model: 'another' instead of 'm'"),
    ],
)
@pytest.mark.parametrize("after", [150, TO_THE_KNEE + 60])
def test_what_was_measured_before_an_endpoint_failed_is_kept_and_marked(failure, words, after):
    queue = Queue()
    queue.fail_after = after
    queue.failure = lambda request, count: failure(queue, request, count)
    found = measured(queue)
    assert words in found.stopped
    assert found.points
    if after > TO_THE_KNEE:
        assert found.knee.completed.value == pytest.approx(queue.capacity, rel=0.05)
        assert found.knee.note == ""
        assert len(found.points) < 6


def test_a_few_failures_are_told_and_do_not_end_it():
    queue = Queue()
    queue.fail_after = 0
    turns = itertools.count()

    async def now_and_then(_request, _count):
        return await refuse(503) if next(turns) % 40 == 39 else None

    queue.failure = now_and_then
    found = measured(queue)
    assert found.stopped is None
    assert found.knee.completed.value == pytest.approx(queue.capacity, rel=0.05)
    assert any("requests failed" in point.note for point in found.points)


def test_a_limited_start_is_waited_for():
    queue = Queue()
    queue.fail_after = 0

    async def twice(_request, count):
        return await refuse(429, {"Retry-After": "7"}) if count <= 2 else None

    queue.failure = twice
    assert measured(queue).knee is not None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (lambda: refuse(401), "401"),
        (lambda: refuse(404), "404"),
        (lambda: garbage(None, None, 0), "no stream"),
    ],
)
def test_a_server_that_never_answers_rightly_is_an_error(failure, words):
    queue = Queue()
    queue.fail_after = 0

    async def always(_request, _count):
        return await failure()

    queue.failure = always
    with pytest.raises(InputError, match=words):
        measured(queue)


def test_a_port_that_nobody_listens_on_is_an_error():
    async def go():
        async with served(Queue()) as url:
            pass
        return await swept(url)

    with pytest.raises(InputError, match="refuses connections"):
        run(go())


def test_a_server_that_only_chats_is_asked_so():
    queue = Queue()
    queue.fail_after = 0

    async def no_completions(request, _count):
        return None if request.path.endswith("chat/completions") else await refuse(404)

    queue.failure = no_completions
    assert measured(queue).knee.completed.value == pytest.approx(queue.capacity, rel=0.05)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"requests": 200}, "--max-requests 200"),
        ({"seconds": 60.0}, "--max-seconds"),
        ({"tokens": 10_000}, "--max-tokens 10000"),
    ],
)
def test_limits_end_the_sweep_and_what_was_measured_stays(limit, words):
    queue = Queue()
    found = measured(queue, limits=Limits(**({"requests": 700, "requests_a_load": 50} | limit)))
    assert words in found.stopped
    assert found.points
    if "requests" in limit:
        assert queue.asked <= 200
    if "tokens" in limit:
        assert queue.asked * 42 < 15_000  # what was under way is counted when it ends


@pytest.mark.parametrize(("stop_at", "knee"), [("2.5 requests/s", False), ("0.5 of the knee", True)])
def test_the_user_may_end_it_at_any_time(stop_at, knee):
    found = measured(Queue(), stop_at=stop_at)
    assert found.stopped == "ended by the user"
    assert (found.knee is not None) is knee
    assert knee or stop_at.startswith("2.5")


def test_the_same_seed_asks_the_same_at_the_same_times():
    one, two = measured(Queue()), measured(Queue())
    assert [point.requests for point in one.points] == [point.requests for point in two.points]
    assert one.knee.completed.value == pytest.approx(two.knee.completed.value, rel=1e-3)


def test_intervals_hold_the_mean_of_independent_values_as_often_as_they_say():
    import random

    numbers = random.Random(5)
    inside = 0
    for _ in range(400):
        found = figures.mean([numbers.expovariate(1.0) for _ in range(200)])
        inside += found.low <= 1.0 <= found.high
    assert 0.90 <= inside / 400 <= 0.98


def test_a_filling_server_is_not_counted_as_full():
    assert figures.settled([0, 1, 3, 6] + [10, 11, 9, 10] * 6) == 4
    assert figures.settled([10.0] * 20) == 0


def test_waves_are_counted_whole():
    waves = [10.0 * wave + 0.01 * number for wave in range(12) for number in range(32)]
    for cut in (0, 5, 31):
        kept = figures.steady(waves[cut : -1 - cut])
        assert figures.rate_between(kept).value == pytest.approx(3.2, rel=0.005)
    assert figures.rate_between([1.0]).value == 0


def test_percentiles_are_samples():
    values = [float(number) for number in range(1, 101)]
    assert [figures.percentile(values, share) for share in (50, 95, 99, 100)] == [50, 95, 99, 100]
