"""`servingplan profile measure` from the shell, against a server on loopback in real time: what it prints, and when it ends."""

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import typer.testing

from servingplan.cli import app
from servingplan.cli.profile.measure import parse_classes
from servingplan.errors import InputError
from servingplan.measure.sweep import Lengths
from tests.unit.measure.servers import Queue, served

MODEL = "llama-3.1-8b"
REPLICA = ("--gpu", "L40S", "--tp", "1", "--engine-version", "0.18.0")
FAST = ("--classes", "chat=40:2", "--max-requests", "330", "--requests-per-load", "30")


@contextmanager
def serving(queue):
    """Its URL; it runs in a thread of its own."""
    found, done = [], asyncio.Event()
    ready = threading.Event()

    def work():
        async def main():
            async with served(queue) as url:
                found.extend((url, asyncio.get_running_loop()))
                ready.set()
                await done.wait()

        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(done.set)
        thread.join()


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, ["profile", "measure", *map(str, arguments)])


def quick():
    return Queue(slots=2, service_seconds=0.04, model=MODEL)


@pytest.mark.slow
def test_rows_can_be_imported_and_the_plot_is_written(tmp_path):
    with serving(quick()) as url:
        result = run("--url", url, *FAST, *REPLICA, "--plot", tmp_path / "plot.svg")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    full = [row for row in rows if not row["offered_requests_per_second"]]
    assert len(full) == 1
    assert {row["model"] for row in rows} == {"Llama-3.1-8B"}
    assert {row["engine_version"] for row in rows} == {"0.18.0"}
    assert float(full[0]["requests_per_second_low"]) <= float(full[0]["requests_per_second"])
    assert all(float(row["ttft_p95_seconds"]) >= float(row["ttft_p50_seconds"]) for row in rows if row not in full)
    assert "chat (1 of 1): full" in result.stderr
    assert (tmp_path / "plot.svg").read_text().lstrip().startswith("<svg")
    (tmp_path / "rows.csv").write_text(result.stdout)
    again = typer.testing.CliRunner().invoke(app, ["profile", "import", str(tmp_path / "rows.csv")])
    assert (again.exit_code, again.stdout) == (0, result.stdout)


@pytest.mark.slow
def test_the_table_names_the_knee():
    with serving(quick()) as url:
        result = run("--url", f"{url}/v1", *FAST, *REPLICA, "-o", "table")
    assert "the knee is at" in result.stdout


def test_a_server_that_fails_before_the_knee_is_told_and_the_exit_code_says_so():
    queue = quick()
    queue.fail_after = 60
    from aiohttp import web

    async def fail(_request, _count):
        return web.json_response({}, status=500)

    queue.failure = fail
    with serving(queue) as url:
        result = run("--url", url, *FAST, *REPLICA, "-o", "json")
    assert result.exit_code == 3
    assert "the endpoint answered with an error: 500" in result.stderr
    assert all(row["requests_per_second"] > 0 for row in json.loads(result.stdout or "[]"))


@pytest.mark.slow
def test_ctrl_c_prints_what_was_measured():
    queue = Queue(slots=2, service_seconds=0.05, model=MODEL)
    with serving(queue) as url:
        command = [sys.executable, "-m", "servingplan", "profile", "measure", "--url", url, *FAST, *REPLICA]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if "of the knee" in line:
                    os.kill(process.pid, signal.SIGINT)
                    break
            rows = list(csv.DictReader(io.StringIO(process.stdout.read())))
            told = process.stderr.read()
    assert process.returncode == 0
    assert "ended by the user" in told
    assert 1 <= len(rows) < 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "localhost:1"), "--url"),
        (("--url", "http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_urls_that_lead_nowhere(arguments, words):
    result = run(*arguments, *FAST, *REPLICA)
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)
    assert result.stdout == ""


def test_what_the_rows_need_is_asked_for_before_anything_is_measured():
    queue = quick()
    with serving(queue) as url:
        for arguments, words in [
            ((), "--gpu: is required"),
            (("--gpu", "L41S"), "L41S"),
            ((*REPLICA, "--card", "llama-9"), "llama-9"),
            ((*REPLICA, "--engine", "x"), "engine"),
            ((*REPLICA, "--classes", "512x128"), "--classes"),
        ]:
            result = run("--url", url, *FAST, *arguments)
            assert isinstance(result.exception, InputError), result.output
            assert words in str(result.exception)
    assert queue.asked == 0


def test_classes_as_people_write_them(tmp_path):
    assert parse_classes(["512:128,long=2455:18", "1:1"]) == [
        Lengths("512:128", 512, 128),
        Lengths("long", 2455, 18),
        Lengths("1:1", 1, 1),
    ]
    assert [item.name for item in parse_classes(["examples/chat.yaml"])][:2] == [
        "llama-3.1-70b/long-in",
        "llama-3.1-70b/chat",
    ]
    for text in ("", "512", "a:b", "0:5", "5:0"):
        with pytest.raises(InputError, match="--classes"):
            parse_classes([text])
