"""Prometheus scrapes pods as it finds them; what it counts is what users send, and a step of it grows the fleet."""

import json
import threading
import time

import pytest

from e2e.real.traffic import Traffic, until_sent
from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster import prometheus
from localcluster.prometheus import PrometheusProcess
from servingplan.kube import PODS
from servingplan.routing.envoy import STATS_PATH

OFFERED = 0.45
"""The offered share of the rate planned for one replica. Three times as much needs another replica."""
DECLARED_TOKENS = 1000
"""The declared length of prompts. Users send shorter ones, so a few requests a second fill a replica by the plan."""
COUNTERS = (
    "vllm:request_success_total",
    'envoy_http_local_rate_limit_enabled{envoy_local_http_ratelimit_prefix!="admission"}',
)
"""Of what was answered, and of all that came; the counter of what admission looked at is left out."""


@pytest.fixture
def scraping(scene, tmp_path):
    """A Prometheus that scrapes the ports ``http`` of engines and ``stats`` of gateways, of all pods at the time."""
    try:
        prometheus.program()
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))
    found = tmp_path / "pods.json"
    job = {
        "job_name": "pods",
        "file_sd_configs": [{"files": [str(found)]}],
        "relabel_configs": [{"source_labels": ["__meta_path"], "target_label": "__metrics_path__"}],
    }
    with Discovery(scene, found), PrometheusProcess(tmp_path / "prometheus", {}, more=[job]) as running:
        yield running


class Discovery:
    """What Prometheus' discovery of pods does, which Debian's build of it is without: keeps a file of its targets."""

    def __init__(self, scene, file):
        self._scene, self._file = scene, file
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join(60)

    def _follow(self):
        written = None
        while not self._stopped.wait(0.5):
            pods = self._scene.api.list(PODS, namespace=self._scene.namespace)
            text = json.dumps([target for pod in pods for target in _targets(pod)])
            if text != written:
                partial = self._file.with_suffix(".partial")
                partial.write_text(text)
                partial.rename(self._file)
                written = text


def _targets(pod):
    """Of one pod, as Prometheus' file format has them."""
    metadata, address = pod["metadata"], pod.get("status", {}).get("podIP")
    wanted = {"stats": STATS_PATH} if metadata["labels"].get("app") else {"http": "/metrics"}
    for container in pod["spec"]["containers"] if address else ():
        for port in container.get("ports", ()):
            if port["name"] in wanted:
                labels = {
                    "namespace": metadata["namespace"],
                    "pod": metadata["name"],
                    "__meta_path": wanted[port["name"]],
                }
                yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def test_what_is_counted_is_what_is_offered_and_a_step_of_three_grows_the_fleet(
    scene, operator, ground, scraping, witness
):
    demand = {"prometheus": {"url": scraping.url, "window": "1m"}}
    model = ground.model(1)
    (only,) = model["classes"]
    only["inputTokens"] = DECLARED_TOKENS
    offered_per_second = OFFERED * plans.planned_of_a_node(model, gpus=1)
    only["requestsPerSecond"] = f"{0.7 * offered_per_second:.3f}"
    scene.apply(ground.plan(model, demand=demand))
    ground.apply_gateway()
    gateway = ground.address_of("chat-gateway")
    scene.wait_ready(seconds=60)
    assert len(scene.ready_pods()) == 1

    began = time.monotonic()
    with Traffic(gateway, requests_per_second=offered_per_second, tokens=(18,)) as traffic:
        scene.wait_condition("DemandKnown", reason="Measured", seconds=60)
        wait_for(
            "demand is what is offered",
            lambda: _rate(scene) == pytest.approx(traffic.offered(since=began), rel=0.15),
            seconds=60,
            shown=lambda: (_rate(scene), traffic.offered(since=began)),
        )
        traffic.requests_per_second = 3 * offered_per_second
        stepped = time.monotonic()
        wait_for("the fleet grows", lambda: len(scene.pods()) >= 2, seconds=60, shown=lambda: _rate(scene))
        print(f"another replica was made {time.monotonic() - stepped:.1f} s after the step")
        wait_for(
            "demand is what is offered now",
            lambda: _rate(scene) == pytest.approx(traffic.offered(since=stepped), rel=0.15),
            seconds=60,
            shown=lambda: (_rate(scene), traffic.offered(since=stepped)),
        )
        offered = traffic.offered(since=stepped)
        print(f"demand {_rate(scene):.1f} of {offered:.1f} requests/s {time.monotonic() - stepped:.1f} s after it")
        wait_for("more replicas serve", lambda: len(scene.ready_pods()) >= 2, seconds=60, shown=ground.pods)
        scene.wait_ready(seconds=30)
        ready = time.monotonic()
        wait_for("users go on", until_sent(traffic, 100), seconds=30)
    turned_away = [outcome for outcome in traffic.lost if outcome.lost.startswith("status 429")]
    assert traffic.lost == turned_away, (
        "what one replica cannot carry is shed until the other is ready; nothing else is lost"
    )
    assert [outcome for outcome in turned_away if outcome.sent > ready] == []
    print(f"{len(turned_away)} of {len(traffic.outcomes)} requests were turned away meanwhile")
    answered = len(traffic.outcomes) - len(turned_away)
    for counter, number in zip(COUNTERS, (answered, len(traffic.outcomes)), strict=True):
        _wait_until_counted(scraping, counter, number)


def _wait_until_counted(scraping: PrometheusProcess, counter: str, number: int) -> None:
    def counted() -> float:
        return scraping.value(f"sum({counter})")

    what = f"every request is in {counter}, once"
    wait_for(what, lambda: counted() == number, seconds=10, shown=lambda: (counted(), number))


def _rate(scene):
    (entry,) = scene.plan()["status"]["classes"]
    assert entry["model"] == SMALL
    return float(entry["requestsPerSecond"])
