"""A stock Envoy reads the keys of the routing ConfigMap as they are, and follows them as the kubelet swaps them."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from servingplan.render import envoy

pytestmark = pytest.mark.cluster
ENVOY = Path(sys.executable).with_name("envoy")
NAMESPACE = "llm"
SERVICES = ("chat-a", "chat-b", "chat-c")
REQUESTS = 2000


def target(service, weight):
    return {"service": service, "port": 8000, "weight": weight}


def routing_document(revision, *chat, admitted=None):
    """Two models; ``chat`` is where the first one's default class goes."""
    return {
        "version": 1,
        "plan": f"{NAMESPACE}/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in SERVICES],
        "models": {
            "meta/llama": {
                "defaultClass": "chat",
                "classes": [
                    {
                        "name": "long-in",
                        "match": {"inputTokensAtLeast": 1476},
                        "admitRequestsPerSecond": None,
                        "targets": [target("chat-b", 10000)],
                    },
                    {"name": "chat", "match": {}, "admitRequestsPerSecond": None, "targets": list(chat)},
                    {"name": "rare", "match": {}, "admitRequestsPerSecond": admitted, "targets": list(chat)},
                ],
            },
            "qwen": {
                "defaultClass": "all",
                "classes": [{"name": "all", "match": {}, "admitRequestsPerSecond": None, "targets": []}],
            },
        },
    }


class Replica(ThreadingHTTPServer):
    """A model server that answers with its name."""

    daemon_threads = True

    def __init__(self, name):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 4096  # one packet per answer

            def do_GET(self):
                self.send_response(200)
                self.send_header("content-length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Mount:
    """A folder as the kubelet makes it of a ConfigMap: files are links through ``..data``, which is swapped."""

    def __init__(self, folder, ports):
        """``ports``: where each address of the files really is, on loopback."""
        self.folder = folder
        self._ports = ports
        self._current = None
        folder.mkdir()

    def local(self, text):
        """The same file with this folder as the mount and everything on loopback."""
        content = yaml.safe_load(text.replace(envoy.MOUNT, str(self.folder)))
        self._move(content)
        return yaml.safe_dump(content)

    def _move(self, node):
        if isinstance(node, dict) and "port_value" in node and node["address"] in self._ports:
            node.update(port_value=self._ports[node["address"]], address="127.0.0.1")
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            self._move(child)

    def swap(self, document):
        files = envoy.envoy_files(document, namespace=NAMESPACE)
        fresh = self.folder / f"..revision_{document['revision']}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_text(self.local(content))
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        if self._current:
            shutil.rmtree(self._current)
        self._current = fresh


class Gateway:
    """A running Envoy."""

    def __init__(self, port, admin_port, mount):
        self.port, self.admin_port, self.mount = port, admin_port, mount

    def stats(self):
        with closing(http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)) as connection:
            connection.request("GET", "/stats?format=json")
            entries = json.loads(connection.getresponse().read())["stats"]
        return {item["name"]: item["value"] for item in entries if "value" in item}

    def follow(self, document):
        """Swap the document in and wait until Envoy has taken it."""
        before = self.stats()["http.servingplan.rds.servingplan.update_success"]
        self.mount.swap(document)
        end = time.monotonic() + 10
        while self.stats()["http.servingplan.rds.servingplan.update_success"] == before:
            assert time.monotonic() < end, "Envoy did not take the new routes"
            time.sleep(0.01)
        time.sleep(0.1)

    def ask(self, number=1, **headers):
        """Answers of requests with these headers: (status, headers, body)."""
        named = {f"x-servingplan-{key}": value for key, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            answers = []
            for _ in range(number):
                connection.request("GET", "/v1/models", headers=named)
                answer = connection.getresponse()
                answers.append((answer.status, dict(answer.getheaders()), answer.read().decode()))
        return answers

    def shares(self, number, **headers):
        return Counter(body for status, _, body in self.ask(number, **headers) if status == 200)


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


FIRST = routing_document(1, target("chat-a", 7000), target("chat-b", 3000), admitted=2.5)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("envoy")
    replicas = {name: Replica(name) for name in SERVICES}
    port, admin_port = free_ports(2)
    services = {f"{name}.{NAMESPACE}.svc.cluster.local": item.server_port for name, item in replicas.items()}
    mount = Mount(folder / "routing", {"0.0.0.0": port, **services})
    mount.swap(FIRST)
    (folder / "bootstrap.yaml").write_text(mount.local(yaml.safe_dump(envoy.bootstrap(admin_port=admin_port))))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [ENVOY, "-c", folder / "bootstrap.yaml", "--disable-hot-restart", "--concurrency", "1", "-l", "warn"],
            stdout=log,
            stderr=log,
        )
    try:
        running = Gateway(port, admin_port, mount)
        end = time.monotonic() + 20
        while True:
            try:
                running.ask()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(10)
        for replica in replicas.values():
            replica.shutdown()
            replica.server_close()


def assert_share(counts, service, share):
    total = sum(counts.values())
    assert total == REQUESTS
    # Four standard deviations: one run in sixteen thousand would fail by chance.
    assert abs(counts[service] - total * share) <= 4 * (total * share * (1 - share)) ** 0.5


def error_of(answer):
    _, headers, body = answer
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_envoy_takes_the_resources_as_a_static_configuration(tmp_path):
    files = envoy.envoy_files(FIRST, namespace=NAMESPACE)
    listeners, routes, clusters = (
        yaml.safe_load(files[f"envoy-{kind}.yaml"])["resources"] for kind in ("lds", "rds", "cds")
    )
    manager = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = {key: value for key, value in routes[0].items() if key != "@type"}
    resources = {
        "listeners": [{key: value for key, value in item.items() if key != "@type"} for item in listeners],
        "clusters": [{key: value for key, value in item.items() if key != "@type"} for item in clusters],
    }
    path = tmp_path / "static.yaml"
    path.write_text(yaml.safe_dump({"static_resources": resources}))
    done = subprocess.run([ENVOY, "--mode", "validate", "-c", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout + done.stderr


def test_weights_share_the_requests_of_a_class(gateway):
    gateway.follow({**FIRST, "revision": 2})
    assert_share(gateway.shares(REQUESTS, model="meta/llama", **{"class": "chat"}), "chat-a", 0.7)


def test_a_class_goes_where_its_own_targets_are(gateway):
    assert gateway.shares(50, model="meta/llama", **{"class": "long-in"}) == {"chat-b": 50}


def test_without_a_class_or_with_an_unknown_one_the_default_class_takes_it(gateway):
    assert set(gateway.shares(100, model="meta/llama")) == {"chat-a", "chat-b"}
    assert set(gateway.shares(100, model="meta/llama", **{"class": "odd"})) == {"chat-a", "chat-b"}


def test_a_model_that_is_not_served_answers_404(gateway):
    for headers in ({"model": "gpt"}, {}):
        (answer,) = gateway.ask(**headers)
        assert answer[0] == 404
        assert error_of(answer)["code"] == "model_not_found"


def test_a_class_with_nothing_ready_answers_503(gateway):
    (answer,) = gateway.ask(model="qwen")
    assert answer[0] == 503
    assert error_of(answer)["code"] == "unavailable"
    assert answer[1]["retry-after"] == "1"


def test_what_is_above_the_admitted_rate_answers_429(gateway):
    started = time.monotonic()
    answers = gateway.ask(200, model="meta/llama", **{"class": "rare"})
    seconds = time.monotonic() - started
    admitted = sum(status == 200 for status, _, _ in answers)
    assert 3 <= admitted <= 3 + 3 * (1 + seconds / 1.2)
    turned_away = next(answer for answer in answers if answer[0] == 429)
    assert error_of(turned_away)["code"] == "rate_limit_exceeded"
    assert turned_away[1]["retry-after"] == "1"


def test_a_swapped_document_is_followed_without_a_restart_and_without_a_lost_request(gateway):
    lost, stop = [], threading.Event()

    def ask_on():
        while not stop.is_set():
            lost.extend(answer for answer in gateway.ask(20, model="meta/llama") if answer[0] != 200)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        for revision in range(3, 13):  # to a Service that had no weight, and back
            chosen = "chat-c" if revision % 2 else "chat-a"
            gateway.follow(routing_document(revision, target(chosen, 10000)))
            assert gateway.shares(20, model="meta/llama") == {chosen: 20}
    finally:
        stop.set()
        asking.join()
    assert lost == []
    gateway.follow(routing_document(13, target("chat-b", 9000), target("chat-c", 1000)))
    assert_share(gateway.shares(REQUESTS, model="meta/llama"), "chat-c", 0.1)
    stats = gateway.stats()
    rejected = {name: value for name, value in stats.items() if name.endswith("update_rejected")}
    assert len(rejected) >= 3
    assert set(rejected.values()) == {0}
    assert stats["listener_manager.listener_create_success"] == 1
    assert stats["listener_manager.listener_modified"] == 0
