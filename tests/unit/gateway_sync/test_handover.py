"""New weights wait for replicas that the gateway knows; a Service without any gets nothing while another has one."""

import json
import threading

import pytest

from servingplan.gateway_sync import sync as module
from servingplan.gateway_sync.handover import services_with_weight, with_routes_of, without_the_empty
from servingplan.gateway_sync.sync import LEAVING_SECONDS, LONGEST_HOLD_SECONDS, SETTLING_SECONDS, Sync
from servingplan.model.names import ROUTING_KEY
from servingplan.routing.envoy import USUAL


def document(revision, weights, services=("one", "two")):
    targets = [{"service": name, "port": 8000, "weight": weight} for name, weight in weights.items()]
    return {
        "version": 1,
        "plan": "llm/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in services],
        "models": {
            "m": {
                "defaultClass": "all",
                "classes": [{"name": "all", "match": {}, "admitRequestsPerSecond": None, "targets": targets}],
            }
        },
    }


def test_what_is_empty_gets_nothing_while_another_is_not():
    both = document(1, {"one": 4000, "two": 6000})
    assert services_with_weight(without_the_empty(both, {"two"})) == {"two"}
    assert services_with_weight(without_the_empty(both, set())) == {"one", "two"}
    assert without_the_empty(both, {"one", "two"}) == both


def test_routes_that_stay_make_the_next_services_known():
    shown, latest = document(1, {"one": 10000}, services=["one"]), document(2, {"two": 10000}, services=["two"])
    kept = with_routes_of(shown, latest)
    assert kept["models"] == shown["models"]
    assert kept["revision"] == 1
    assert [item["service"] for item in kept["services"]] == ["one", "two"]


class Files:
    """The folder: remembers every version."""

    def __init__(self):
        self.versions = []

    def put(self, files):
        self.versions.append(files)
        return True


class Envoy:
    """Knows what the test says; None: it does not listen."""

    def __init__(self):
        self.known = None

    def has(self, services):
        return None if self.known is None else self.known & services


@pytest.fixture(autouse=True)
def envoy(monkeypatch):
    made = Envoy()
    monkeypatch.setattr(module, "services_with_replicas", lambda port, services: made.has(services))
    return made


@pytest.fixture
def ground(monkeypatch):
    """A sync whose clock is moved by hand, and what it wrote."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    files = Files()
    made = Sync(api=None, namespace="llm", config_map="chat-routing", place=USUAL, folder=files)
    made._slice_seen("LISTED", {"items": []})

    def step(seconds=0.0):
        now[0] += seconds
        done = made._write()
        return done, json.loads(json.dumps(files.versions[-1]))

    def publish(content):
        made._routing_seen("MODIFIED", {"data": {ROUTING_KEY: json.dumps(content)}})

    def endpoints(service, *addresses):
        made._slice_seen(
            "MODIFIED",
            {
                "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "http", "port": 8000}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            },
        )

    return step, publish, endpoints


def weighted(files):
    return {name for name in ("one", "two") if f"name: {name}\n" in files["envoy-rds.yaml"]}


def begun(ground):
    """With all weight on one, whose replica is known."""
    step, publish, endpoints = ground
    publish(document(1, {"one": 10000}))
    endpoints("one", "10.0.0.1")
    step()
    return ground


def test_a_first_weight_waits_for_its_replica_to_be_known(ground):
    step, publish, endpoints = ground
    publish(document(1, {"one": 10000}))
    endpoints("one", "10.0.0.1")
    assert weighted(step()[1]) == {"one"}
    publish(document(2, {"one": 5000, "two": 5000}))
    done, files = step(0.01)
    assert (done, weighted(files)) == (False, {"one"})
    endpoints("two", "10.0.0.2")
    done, files = step(0.01)
    assert (done, weighted(files)) == (False, {"one"})
    assert "10.0.0.2" in files["envoy-eds-two.yaml"]
    done, files = step(2 * SETTLING_SECONDS)
    assert (done, weighted(files)) == (True, {"one", "two"})


def test_a_first_weight_waits_until_envoy_says_that_it_knows_a_replica(ground, envoy):
    step, publish, endpoints = begun(ground)
    envoy.known = {"one", "two"}  # of what is in its files, not of what is to come
    publish(document(2, {"one": 5000, "two": 5000}))
    assert not step()[0]
    envoy.known = {"one"}
    endpoints("two", "10.0.0.2")
    for _ in range(9):
        done, files = step(0.1 * LONGEST_HOLD_SECONDS)
        assert (done, weighted(files)) == (False, {"one"})
        assert "10.0.0.2" in files["envoy-eds-two.yaml"]
    envoy.known = {"one", "two"}
    done, files = step()
    assert (done, weighted(files)) == (True, {"one", "two"})


def test_an_envoy_that_never_says_so_does_not_hold_weights_for_ever(ground, envoy):
    step, publish, endpoints = begun(ground)
    envoy.known = set()
    publish(document(2, {"one": 5000, "two": 5000}))
    endpoints("two", "10.0.0.2")
    assert not step()[0]
    done, files = step(LONGEST_HOLD_SECONDS)
    assert (done, weighted(files)) == (True, {"one", "two"})


def test_a_service_that_is_named_no_more_stays_known_for_a_while(ground):
    step, publish, endpoints = ground
    publish(document(1, {"one": 5000, "two": 5000}))
    endpoints("one", "10.0.0.1")
    endpoints("two", "10.0.0.2")
    step()
    publish(document(2, {"one": 10000}, services=["one"]))
    for _ in range(3):
        files = step(0.3 * LEAVING_SECONDS)[1]
        assert weighted(files) == {"one"}
        assert "10.0.0.2" in files["envoy-eds-two.yaml"]
        assert "name: two\n" in files["envoy-cds.yaml"]
    files = step(0.2 * LEAVING_SECONDS)[1]
    assert "envoy-eds-two.yaml" not in files
    assert "name: two\n" not in files["envoy-cds.yaml"]


def test_what_never_comes_is_waited_for_only_so_long(ground):
    step, publish, endpoints = begun(ground)
    publish(document(2, {"one": 5000, "two": 5000}))
    assert not step()[0]
    done, files = step(LONGEST_HOLD_SECONDS)
    assert (done, weighted(files)) == (True, {"one"})
    endpoints("two", "10.0.0.2")
    assert weighted(step()[1]) == {"one", "two"}


def test_each_service_is_waited_for_by_itself(ground):
    step, publish, _ = begun(ground)
    publish(document(2, {"one": 5000, "two": 5000}))
    assert not step()[0]
    publish(document(3, {"one": 4000, "two": 3000, "three": 3000}))
    assert not step(0.9 * LONGEST_HOLD_SECONDS)[0]
    assert not step(0.5 * LONGEST_HOLD_SECONDS)[0], "three has waited for half as long as it may"
    assert step(0.6 * LONGEST_HOLD_SECONDS)[0]


def test_documents_that_keep_changing_do_not_wait_for_ever(ground):
    step, publish, _ = begun(ground)
    for revision in range(2, 7):
        publish(document(revision, {"one": 10000 - revision, "two": revision}))
        done, _ = step(0.3 * LONGEST_HOLD_SECONDS)
    assert done


def test_a_service_that_loses_its_replicas_loses_its_weight(ground):
    step, publish, endpoints = ground
    publish(document(1, {"one": 5000, "two": 5000}))
    endpoints("one", "10.0.0.1")
    endpoints("two", "10.0.0.2")
    assert weighted(step()[1]) == {"one", "two"}
    endpoints("two")
    done, files = step(1)
    assert (done, weighted(files)) == (True, {"one"})


def test_the_loop_comes_back_for_what_it_holds(monkeypatch):
    calls = []
    made = Sync(api=None, namespace="llm", config_map="chat-routing", place=USUAL, folder=Files())
    monkeypatch.setattr(made, "_follow", lambda *_: None)

    def write():
        calls.append(1)
        if len(calls) == 3:
            made._stopped.set()
        return len(calls) >= 3

    monkeypatch.setattr(made, "_write", write)
    made._changed.set()
    runner = threading.Thread(target=made.run, daemon=True)
    runner.start()
    runner.join(10)
    assert len(calls) == 3
