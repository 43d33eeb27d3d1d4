"""The emulator over real connections, in this process, faster than time."""

import asyncio
import json
import random

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from servingplan.emulate.arguments import shape
from servingplan.emulate.launch import Emulation, Options
from servingplan.emulate.live import Failure, State
from servingplan.emulate.server import ENGINE_HEADER, OUTPUT_HEADER

MODEL = "llama-3.1-8b"
SHAPE = shape(model=MODEL, gpu="L40S", max_model_len=4096)
SMALL = shape(model=MODEL, gpu="L40S", max_model_len=4096, max_num_seqs=1)
FAST = Options(speed=100.0)


class Client:
    """One emulation and a client of its first copy."""

    def __init__(self, emulation, session):
        self.emulation, self.session = emulation, session
        self.live = emulation.copies[0].live

    def url(self, path, copy=0):
        return f"http://127.0.0.1:{self.emulation.copies[copy].port}{path}"

    def chat(self, content="hello there", copy=0, headers=None, **fields):
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        return self.session.post(self.url("/v1/chat/completions", copy), json=body, headers=headers)

    async def status(self, path, copy=0):
        async with self.session.get(self.url(path, copy)) as response:
            return response.status

    async def fail(self, **fields):
        async with self.session.post(self.url("/emulator/fail"), json=fields) as response:
            return response.status

    async def metrics(self):
        async with self.session.get(self.url("/metrics")) as response:
            found = await response.text()
        return {
            (sample.name, sample.labels.get("finished_reason") or sample.labels.get("le")): sample.value
            for family in text_string_to_metric_families(found)
            for sample in family.samples
        }

    async def crawl(self, factor):
        """What is asked for from now on takes so many times as long: long enough to meet it under way on any machine."""
        assert await self.fail(mode="slow", factor=factor) == 200

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (the emulator has no event for it)
                await asyncio.sleep(0.002)


@pytest.fixture
def emulate():
    """Start an emulation within a test."""

    class Running:
        def __init__(self, shapes=(SHAPE,), options=FAST):
            self.emulation = Emulation(list(shapes), options, names=[f"copy-{n}" for n in range(len(shapes))])

        async def __aenter__(self):
            await self.emulation.__aenter__()
            self.session = aiohttp.ClientSession()
            return Client(self.emulation, self.session)

        async def __aexit__(self, *error):
            await self.session.close()
            await self.emulation.__aexit__(*error)

    return Running


async def events(response):
    found = []
    async for line in response.content:
        if line.startswith(b"data: "):
            found.append(line[6:].strip())
    assert found[-1] == b"[DONE]"
    return [json.loads(item) for item in found[:-1]]


async def test_an_answer_and_its_stream_say_the_same(emulate):
    async with emulate() as client:
        async with client.chat(max_tokens=50) as response:
            assert response.status == 200
            assert response.headers[ENGINE_HEADER] == "copy-0"
            whole = await response.json()
        assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 50, "total_tokens": 53}
        assert whole["choices"][0]["finish_reason"] == "length"
        assert len(whole["choices"][0]["message"]["content"].split()) == 50

        request = {"model": MODEL, "prompt": "abcd" * 10, "max_tokens": 40, "stream": True}
        request["stream_options"] = {"include_usage": True}
        texts = []
        for _ in range(2):
            async with client.session.post(client.url("/v1/completions"), json=request) as response:
                assert response.headers["Content-Type"].startswith("text/event-stream")
                parts = await events(response)
            texts.append("".join(part["choices"][0]["text"] for part in parts[:-1]))
            assert parts[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}
            reasons = [part["choices"][0]["finish_reason"] for part in parts[:-1]]
            assert reasons == [None] * (len(reasons) - 1) + ["length"]
        assert texts[0] == texts[1]
        assert len(texts[0].split()) == 40


async def test_a_chat_stream_begins_with_the_role_and_comes_in_parts(emulate):
    async with emulate() as client:
        await client.crawl(factor=2000)
        async with client.chat(max_tokens=400, stream=True) as response:
            first, _, part, _ = [await response.content.readline() for _ in range(4)]
            assert client.live.engine.running == 1
            client.live.fail(Failure())
            parts = [json.loads(line.removeprefix(b"data: ")) for line in (first, part)] + await events(response)
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert parts[1]["choices"][0]["delta"]["content"]
    assert len("".join(part["choices"][0]["delta"]["content"] for part in parts).split()) == 400


async def test_an_answer_without_a_limit_ends_by_itself(emulate):
    async with emulate() as client:
        async with client.chat() as response:
            whole = await response.json()
        assert (whole["usage"]["completion_tokens"], whole["choices"][0]["finish_reason"]) == (128, "stop")
        async with client.chat(max_tokens=500, headers={OUTPUT_HEADER: "17"}) as response:
            whole = await response.json()
        assert (whole["usage"]["completion_tokens"], whole["choices"][0]["finish_reason"]) == (17, "stop")
        async with client.chat(headers={OUTPUT_HEADER: "-1"}) as response:
            assert response.status == 400


async def test_refusals_have_openais_form(emulate):
    async with emulate() as client:
        for send, status in (
            (client.session.post(client.url("/v1/chat/completions"), data=b"{"), 400),
            (client.chat(model="other"), 404),
            (client.chat(content="x" * 4 * 5000), 400),
            (client.session.get(client.url("/v1/unknown")), 404),
            (client.session.get(client.url("/v1/completions")), 405),
        ):
            async with send as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (status, status)
                assert error["message"]
                assert error["type"]
        assert client.live.engine.idle


async def test_mangled_requests_are_refused_or_served_and_leave_nothing_behind(emulate):
    source = random.Random(3)
    fields = {"model": MODEL, "prompt": "abcd", "max_tokens": 3, "stream": True, "mode": "none", "after_seconds": 1e300}
    odd = [None, True, -1, 0, 1.5, 10**30, float("nan"), float("inf"), "", "\ud800", [], {}, [[]], [{}], "x" * 99]
    async with emulate() as client:
        for _ in range(300):
            body = {**fields, source.choice([*fields, "messages", "n", "for_seconds"]): source.choice(odd)}
            data = bytearray(json.dumps(body).encode())
            if source.random() < 0.3:
                data[source.randrange(len(data))] = source.randrange(256)
            path = source.choice(["/v1/completions", "/v1/chat/completions", "/emulator/fail"])
            async with client.session.post(client.url(path), data=bytes(data)) as response:
                assert response.status < 500
                await response.read()
        await client.until(lambda: client.live.engine.idle)
        assert client.live.engine.kv_usage == 0
        assert await client.status("/health") == 200


async def test_models_are_listed(emulate):
    async with emulate() as client, client.session.get(client.url("/v1/models")) as response:
        models = (await response.json())["data"]
    assert [(item["id"], item["max_model_len"]) for item in models] == [(MODEL, 4096)]


async def test_times_follow_the_engine(emulate):
    """What a client waits is what the engine counted, at the speed that was asked for."""
    async with emulate(options=Options(speed=10.0)) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with client.chat(max_tokens=100) as response:
            await response.read()
        waited = (loop.time() - began) * 10
        expected = client.live.engine.tally.end_to_end.total
    assert expected > 1
    assert expected <= waited + 1e-6 < expected + 10 * 60  # a busy machine may keep the client waiting


async def test_metrics_have_vllms_names_and_add_up(emulate):
    async with emulate() as client:
        before = await client.metrics()
        assert before["vllm:request_success_total", "length"] == 0
        for tokens in (1, 10, 20):
            async with client.chat(max_tokens=tokens) as response:
                await response.read()
        found = await client.metrics()
    assert found["vllm:request_success_total", "length"] == 3
    assert found["vllm:generation_tokens_total", None] == 31
    assert found["vllm:prompt_tokens_total", None] == 9
    assert found["vllm:num_requests_running", None] == 0
    assert found["vllm:num_requests_waiting", None] == 0
    assert found["vllm:kv_cache_usage_perc", None] == 0
    for name, observations in (
        ("time_to_first_token_seconds", 3),
        ("inter_token_latency_seconds", 28),
        ("request_time_per_output_token_seconds", 2),
        ("e2e_request_latency_seconds", 3),
        ("request_queue_time_seconds", 3),
        ("request_prompt_tokens", 3),
        ("request_generation_tokens", 3),
    ):
        assert found[f"vllm:{name}_count", None] == observations
        assert found[f"vllm:{name}_bucket", "+Inf"] == observations
    assert found["vllm:prefix_cache_queries_total", None] == 9
    for name in ("num_preemptions_total", "prefix_cache_hits_total"):
        assert found[f"vllm:{name}", None] == 0
    assert found["vllm:cache_config_info", None] == 1


async def test_a_client_that_goes_away_frees_its_slot(emulate):
    async with emulate([SMALL], Options(speed=1.0)) as client:
        for stream in (True, False):
            gone = asyncio.create_task(client.chat(max_tokens=4000, stream=stream).__aenter__())
            await client.until(lambda: client.live.engine.running == 1)
            if stream:
                (await gone).close()
            gone.cancel()
            await client.until(lambda: client.live.engine.idle)
        assert client.live.engine.tally.finished["abort"] == 2


async def test_a_declared_share_of_a_prompt_is_found_in_the_prefix_cache(emulate):
    half = shape(model=MODEL, gpu="L40S", max_model_len=4096, prefix_cache_hit_share=0.5)
    async with emulate([half]) as client:
        async with client.chat("x" * 4000, max_tokens=1) as response:
            usage = (await response.json())["usage"]
        found = await client.metrics()
    assert found["vllm:prefix_cache_queries_total", None] == usage["prompt_tokens"]
    assert found["vllm:prefix_cache_hits_total", None] == usage["prompt_tokens"] // 2


async def test_slow_start(emulate):
    async with emulate(options=Options(startup_seconds=1000)) as client:
        assert await client.status("/health") == 503
        async with client.chat() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
    async with emulate(options=Options(startup_seconds=0.2)) as client:
        await client.until(lambda: client.live.state is State.READY)
        assert await client.status("/health") == 200


async def test_drain_lets_streams_finish_and_takes_nothing_new(emulate):
    async with emulate(options=Options(speed=100.0, shutdown_seconds=1e5)) as client:
        await client.crawl(factor=1000)
        async with client.chat(max_tokens=600, stream=True) as response:
            await client.until(lambda: client.live.engine.running == 1)
            drain = asyncio.create_task(client.emulation.drain())
            await client.until(lambda: client.live.state is State.DRAINING)
            assert await client.status("/health") == 503
            async with client.chat() as refused:
                assert refused.status == 503
            client.live.engine.slowdown = 1
            parts = await events(response)
            assert parts[-1]["choices"][0]["finish_reason"] == "length"
            assert await drain


@pytest.mark.parametrize("shutdown_seconds", [0.0, 0.05])
async def test_what_runs_beyond_its_time_is_cut_when_the_engine_stops(emulate, shutdown_seconds):
    async with emulate(options=Options(speed=1.0, shutdown_seconds=shutdown_seconds)) as client:
        await client.crawl(factor=1000)
        async with client.chat(max_tokens=4000, stream=True) as response:
            assert not await client.emulation.drain()
            with pytest.raises(aiohttp.ClientError):
                await events(response)


async def test_it_fails_as_it_is_asked_to(emulate):
    async with emulate(options=Options(speed=20.0)) as client:
        assert await client.fail(mode="error") == 200
        async with client.chat() as response:
            assert response.status == 500
        assert await client.status("/health") == 200

        assert await client.fail(mode="unready") == 200
        assert await client.status("/health") == 503
        async with client.chat(max_tokens=2) as response:
            assert response.status == 200

        assert await client.fail(mode="slow", factor=7) == 200
        assert client.live.engine.slowdown == 7
        assert await client.fail(mode="slow", factor=0) == 400
        assert await client.fail(mode="nonsense") == 400
        assert await client.fail(mode="error", for_seconds=0.4) == 200
        await client.until(lambda: client.live.failure.mode == "none")
        assert client.live.engine.slowdown == 1


@pytest.mark.slow
async def test_a_hung_engine_answers_nothing_and_goes_on_where_it_stood(emulate):
    async with emulate() as client:
        await client.crawl(factor=1000)
        running = asyncio.create_task(client.chat(max_tokens=2000).__aenter__())
        await client.until(lambda: client.live.engine.running == 1)
        await client.fail(mode="hang")
        stood = client.live.now
        health = asyncio.create_task(client.status("/health"))
        await asyncio.sleep(0.05)
        assert not health.done()
        assert client.live.now == stood
        await client.fail(mode="none")
        assert await health == 200
        response = await running
        assert (await response.json())["usage"]["completion_tokens"] == 2000
        tally = client.live.engine.tally
        assert tally.end_to_end.total == pytest.approx(tally.busy_seconds, rel=0.05)  # the hang is not in it


async def test_a_crash_cuts_the_streams_and_closes_the_port_until_it_is_over(emulate):
    async with emulate([SHAPE, SHAPE]) as client:
        await client.crawl(factor=1000)
        async with client.chat(max_tokens=4000, stream=True) as response:
            await client.until(lambda: client.live.engine.running == 1)
            assert await client.fail(mode="crash", after_seconds=1) == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        await client.emulation.copies[0].settled()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.status("/health")
        assert await client.status("/health", copy=1) == 200
        client.live.fail(Failure())  # its port is closed; only the process itself can bring it back
        await client.emulation.copies[0].settled()
        async with client.chat(max_tokens=3) as response:
            assert response.status == 200


async def test_many_copies_share_the_work_of_one_loop(emulate):
    """Fifty engines, five hundred requests at once: every one is answered, by the engine that it was sent to."""
    async with emulate([SHAPE] * 50, Options(speed=50.0)) as client:

        async def one(number):
            async with client.chat(max_tokens=20, copy=number % 50, stream=number % 2 == 0) as response:
                assert response.status == 200
                assert response.headers[ENGINE_HEADER] == f"copy-{number % 50}"
                return len(await response.read())

        assert min(await asyncio.gather(*(one(number) for number in range(500)))) > 100
        for copy in client.emulation.copies:
            assert copy.live.engine.tally.finished["length"] == 10
