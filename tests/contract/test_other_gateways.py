"""The files for NGINX and HAProxy, taken by the real programs, which then send requests where the document says.

The programs are those on the path, or Debian's packages unpacked in the cache; where neither can be had these tests skip.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.support.gateway import Replicas, ask_all, request
from e2e.support.waiting import wait_for
from localcluster import debian
from localcluster.ports import free_port
from servingplan.routing.haproxy import haproxy_file
from servingplan.routing.nginx import nginx_file

pytestmark = pytest.mark.cluster
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "routing"
PACKAGES = ("nginx", "haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
UNPACKED = debian.folder_of("gateways-debian") / "usr"
LLAMA = "meta-llama/Llama-3.1-70B"
BIG, SMALL, QWEN = "chat-llama-3fa9c1", "chat-llama-77b0d2", "chat-qwen-0a11ce"
LONG = "x" * 6000


def program(name):
    if found := shutil.which(name):
        return found
    try:
        debian.unpacked("gateways-debian", PACKAGES)
    except debian.NotToBeHadError as error:
        pytest.skip(str(error))
    return str(UNPACKED / "sbin" / name)


def environment():
    libraries = ":".join(str(path) for path in UNPACKED.glob("lib/*-linux-gnu"))
    return {**os.environ, "LD_LIBRARY_PATH": libraries}


def nginx(text, folder):
    """Command to run, and to check with."""
    (folder / "nginx-split.conf").write_text(text)
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; "
        f"client_body_temp_path {folder}/body; {temporary} include {folder}/nginx-split.conf; }}\n"
    )
    command = [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return command, [*command, "-t"]


def haproxy(text, folder):
    (folder / "haproxy.cfg").write_text(text)
    (folder / "global.cfg").write_text("global\n    maxconn 1000\n")
    command = [program("haproxy"), "-f", str(folder / "global.cfg"), "-f", str(folder / "haproxy.cfg")]
    return [*command, "-db"], [*command, "-c"]


KINDS = {"nginx": (nginx_file, nginx), "haproxy": (haproxy_file, haproxy)}


@pytest.fixture(params=KINDS)
def kind(request):
    program(request.param)
    return request.param


def on_loopback(text, ports, listening):
    for service, port in ports.items():
        text = text.replace(f"{service}.llm.svc.cluster.local:8000", f"127.0.0.1:{port}")
    return re.sub(r"(listen |bind :)8080", rf"\g<1>{listening}", text)


def check(kind, document, folder, ports):
    render, start = KINDS[kind]
    command, checking = start(on_loopback(render(document, namespace="llm"), ports, free_port()), folder)
    done = subprocess.run(checking, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return command


def golden():
    return json.loads((GOLDEN / "routing.json").read_text())


def test_the_golden_file_is_valid(kind, tmp_path):
    check(kind, golden(), tmp_path, dict.fromkeys((BIG, SMALL, QWEN), 9))


def test_odd_names_are_valid_too(kind, tmp_path):
    document = golden()
    odd = "a'b\"c\\d$e{f};#|g%[h]-"
    entry = {"name": "all", "match": {"header": odd}, "admitRequestsPerSecond": None, "targets": []}
    document["models"][odd] = {"defaultClass": "all", "classes": [entry]}
    document["models"]["-f"] = document["models"][odd]
    check(kind, document, tmp_path, dict.fromkeys((BIG, SMALL, QWEN), 9))


class Running:
    """The program with a server behind every Service."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder

    def __enter__(self):
        with ExitStack() as stack:
            replicas = stack.enter_context(Replicas())
            render, start = KINDS[self.kind]
            ports = {name: replicas.start(name).port for name in (BIG, SMALL, QWEN)}
            self.port = free_port()
            command, _ = start(on_loopback(render(golden(), namespace="llm"), ports, self.port), self.folder)
            with (self.folder / "log").open("w") as log:
                self.process = stack.enter_context(subprocess.Popen(command, env=environment(), stdout=log, stderr=log))
            stack.callback(self.process.terminate)
            wait_for("it answers", self._answers, seconds=30, shown=(self.folder / "log").read_text)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.ask({})
        except* (OSError, EOFError):
            pass
        return None

    def ask(self, body, number=1, **headers):
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return ask_all(self.port, [request(json.dumps(body).encode(), pairs)] * number, connections=2)


@pytest.fixture
def running(kind, tmp_path):
    with Running(kind, tmp_path) as made:
        yield made


def test_requests_go_where_the_document_says(running):
    def where(body, **headers):
        return {answer.text for answer in running.ask(body, 20, x_servingplan_model=LLAMA, **headers)}

    assert where({}, x_servingplan_class="gold") == {BIG}
    assert where({}, x_servingplan_class="gold-customers") == {BIG}
    assert where({}, x_servingplan_class="brief") == {SMALL}
    counts = Counter(answer.text for answer in running.ask({"p": LONG}, 2000, x_servingplan_model=LLAMA))
    assert counts.keys() == {BIG, SMALL}
    assert abs(counts[BIG] / 2000 - 0.8529) < 0.05, "of a random choice, six standard deviations"
    session = running.ask({"p": LONG}, 30, x_servingplan_model=LLAMA, x_session_id="s-1")
    assert len({answer.text for answer in session}) == 1
    assert {answer.text for answer in running.ask({"p": LONG}, 5, x_servingplan_model="qwen")} == {QWEN}
    if running.kind == "haproxy":
        assert {answer.text for answer in running.ask({"model": LLAMA, "max_tokens": 9}, 5)} == {SMALL}
        assert {answer.text for answer in running.ask({"model": LLAMA, "p": LONG}, 50)} == {BIG, SMALL}


def test_refusals_are_openai_errors(running):
    expected = [
        ({}, None, 400),
        ({}, "gpt", 404),
        ({}, "o'dd", 503),
    ]
    for body, model, status in expected:
        headers = {"x_servingplan_model": model} if model else {}
        (answer,) = running.ask(body, **headers)
        assert answer.status == status
        assert answer.error["message"]
    (answer,) = running.ask({}, x_servingplan_model="qwen", x_servingplan_class="batch")
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")


def test_what_is_above_the_admitted_rate_is_refused(running):
    started = time.monotonic()
    answers = running.ask({}, 200, x_servingplan_model=LLAMA, x_servingplan_class="chat")
    seconds = time.monotonic() - started
    # 2.5 in a second; before that HAProxy lets a window of ten pass, and counts what is older by an estimate.
    assert 1 <= sum(answer.status == 200 for answer in answers) <= 20 + 3 * seconds
    refused = next(answer for answer in answers if answer.status != 200)
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")

    def admitted():
        (answer,) = running.ask({}, x_servingplan_model=LLAMA, x_servingplan_class="chat")
        return answer.status == 200

    wait_for("one is admitted again", admitted, seconds=20)


def test_the_revision_is_told(running):
    asked = b"GET /servingplan/revision HTTP/1.1\r\nhost: gateway\r\n\r\n"
    (answer,) = ask_all(running.port, [asked], connections=1)
    assert answer.headers["x-servingplan-revision"] == "7"
    assert json.loads(answer.body) == {"plan": "llm/chat", "revision": 7}
