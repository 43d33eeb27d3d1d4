"""How many emulated engines one process carries: CPU, memory, lateness of its timer, and what clients see.

    python -m benchmarks.emulator --copies 300 --rate 300

The server is one process (`servingplan emulate --copies N`); the load comes from this process, Poisson, streamed, spread
evenly over the copies. CPU is counted by the kernel for the server alone.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

Json = dict[str, Any]

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Seen(NamedTuple):
    """What a client saw of one request: seconds to the first byte and to the last, None where it failed, and events."""

    first_byte: float | None
    whole: float | None
    events: int


async def one(session: aiohttp.ClientSession, port: int, options: argparse.Namespace, seen: list[Seen]) -> None:
    body = {
        "prompt": "x" * 4 * options.input_tokens,
        "max_tokens": options.output_tokens,
        "stream": not options.whole,
    }
    began = time.monotonic()
    first: float | None = None
    events = 0
    async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
        if response.status != 200:
            seen.append(Seen(None, None, 0))
            return
        async for chunk in response.content.iter_any():
            first = first or time.monotonic() - began
            events += chunk.count(b"data: ")
    seen.append(Seen(first, time.monotonic() - began, events))


async def state(session: aiohttp.ClientSession, port: int) -> Json:
    async with session.get(f"http://127.0.0.1:{port}/emulator/state") as response:
        found: Json = await response.json()
        return found


async def load(ports: list[int], pid: int, options: argparse.Namespace) -> Json:
    source = random.Random(1)
    seen: list[Seen] = []
    tasks: list[asyncio.Task[None]] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def spread(seconds: float) -> None:
            until = time.monotonic() + seconds
            due = time.monotonic()
            while due < until:
                due += source.expovariate(options.rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.append(asyncio.create_task(one(session, source.choice(ports), options, seen)))

        await spread(options.warm_seconds)
        seen.clear()
        before, (cpu, _), began = await state(session, ports[0]), usage(pid), time.monotonic()
        await spread(options.seconds)
        after, (cpu_after, memory), ended = await state(session, ports[0]), usage(pid), time.monotonic()
        within = list(seen)
        await asyncio.gather(*tasks)
    passes = [item["loop"]["passes"] for item in (before, after)]
    lag = [item["loop"]["meanLagSeconds"] * item["loop"]["passes"] for item in (before, after)]
    firsts = sorted(item.first_byte for item in seen if item.first_byte is not None)
    events = sum(item.events for item in seen)
    return {
        "requests": len(within),
        "failed": sum(item.first_byte is None for item in seen),
        "requests_per_second": round(len(within) / (ended - began), 1),
        "server_cpu_share": round((cpu_after - cpu) / (ended - began), 3),
        "server_mib": round(memory, 1),
        "timer_passes_per_second": round((passes[1] - passes[0]) / (ended - began), 1),
        "timer_mean_lag_ms": round(1e3 * (lag[1] - lag[0]) / max(1, passes[1] - passes[0]), 2),
        "interval_ms": round(1e3 * after["loop"]["intervalSeconds"], 1),
        "tokens_per_event": None if options.whole else round(options.output_tokens * len(firsts) / max(1, events), 2),
        "first_byte_p50_ms": round(1e3 * firsts[len(firsts) // 2], 1),
        "first_byte_p99_ms": round(1e3 * firsts[int(len(firsts) * 0.99)], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--rate", type=float, default=300.0, help="requests/s in sum")
    parser.add_argument("--input-tokens", type=int, default=496)
    parser.add_argument("--output-tokens", type=int, default=253)
    parser.add_argument("--whole", action="store_true", help="answers in one piece, not streamed")
    parser.add_argument("--warm-seconds", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ports_file = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "servingplan", "emulate", "--model=llama-3.1-8b", "--gpu=L40S", "--port=0"]
        command += [f"--copies={options.copies}", f"--ports-file={ports_file}", "--host=127.0.0.1"]
        began = time.monotonic()
        process = subprocess.Popen(command)
        try:
            while not ports_file.exists() or not ports_file.read_text().endswith("\n"):
                time.sleep(0.02)
            start_seconds = time.monotonic() - began
            start_cpu, memory = usage(process.pid)
            ports = [item["port"] for item in json.loads(ports_file.read_text())]
            found = asyncio.run(load(ports, process.pid, options))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    started = {"start_seconds": start_seconds, "start_cpu_seconds": start_cpu, "start_mib": memory}
    print(json.dumps({"copies": options.copies} | {key: round(it, 2) for key, it in started.items()} | found, indent=1))


if __name__ == "__main__":
    main()
