"""Slices, claims and classes as facts."""

import pytest

from servingplan.model.world import DeviceClass
from servingplan.observe.devices import SeenClaim, device_class_of, devices_by_node, seen_claim, seen_devices
from servingplan.observe.pods import asked_devices, seen_pod

OWN = {"namespace": "llm", "plan_label": "chat"}


def device(name, consumes=None, taints=(), **attributes):
    found = {"name": name, "attributes": {key: {"string": value} for key, value in attributes.items()}}
    found["taints"] = [{"key": "broken", "effect": effect} for effect in taints]
    return found if consumes is None else {**found, "consumesCounters": consumes}


def part(*devices, node="n", pool="n", generation=1, slices=1, driver="gpu.nvidia.com"):
    spec = {
        "driver": driver,
        "pool": {"name": pool, "generation": generation, "resourceSliceCount": slices},
        "devices": list(devices),
    }
    return {"metadata": {"name": "s"}, "spec": spec if node is None else {**spec, "nodeName": node}}


def claim(*names, namespace="other", labels=None, **more):
    results = [{"driver": "gpu.nvidia.com", "pool": "n", "device": name, **more} for name in names]
    metadata = {"name": "c", "namespace": namespace, "labels": labels or {}}
    return {"metadata": metadata, "status": {"allocation": {"devices": {"results": results}}}}


def counts(*slices, claims=()):
    seen = [found for item in slices if (found := seen_devices(item)) is not None]
    held = [found for item in claims if (found := seen_claim(item)) is not None]
    nodes = devices_by_node(seen, held, **OWN)
    return {
        (node, item.driver, *item.attributes.values()): (item.count, item.held_by_others)
        for node, found in nodes.items()
        for item in found
    }


def test_like_devices_of_a_node_are_counted_together():
    whole = [device(f"gpu-{index}", type="gpu", uuid=f"GPU-{index}", pciBusID=f"{index}") for index in range(3)]
    parts = [device(f"mig-{index}", type="mig", parentUUID=f"{index}") for index in range(2)]
    assert counts(part(*whole, *parts), part(device("a", type="gpu"), node="m", pool="m")) == {
        ("n", "gpu.nvidia.com", "gpu"): (3, 0),
        ("n", "gpu.nvidia.com", "mig"): (2, 0),
        ("m", "gpu.nvidia.com", "gpu"): (1, 0),
    }


def test_attributes_have_their_whole_names_and_only_texts_count():
    item = part({"name": "x", "attributes": {"type": {"string": "gpu"}, "a.b/c": {"string": "d"}, "index": {"int": 0}}})
    found = seen_devices(item)
    assert found is not None
    assert found.devices == (("x", (("a.b/c", "d"), ("gpu.nvidia.com/type", "gpu"))),)


@pytest.mark.parametrize(
    ("slices", "count"),
    [
        ([part(device("a"), device("b", taints=("NoSchedule",)), device("c", taints=("None",)))], 2),
        ([part(device("a"), device("b", consumes=[{"counterSet": "x"}]))], 1),
        ([part(device("a"), node=None)], 0),
        ([part(device("a"), slices=2), part(device("b"), slices=2)], 2),
        ([part(device("a"), slices=2)], 0),  # another slice is yet to come
        ([part(device("a"), device("b")), part(device("a"), generation=2)], 1),
        ([part(device("a"), generation=2), part(device("a"), device("b"))], 1),
    ],
)
def test_only_devices_that_the_scheduler_could_allocate_count(slices, count):
    assert sum(found for found, _ in counts(*slices).values()) == count


@pytest.mark.parametrize(
    ("claims", "held"),
    [
        ([claim("a")], 1),
        ([claim("a"), claim("a", "b")], 2),
        ([claim("z")], 0),
        ([claim("a", adminAccess=True)], 0),
        ([claim("a", namespace="llm", labels={"servingplan.dev/plan": "chat"})], 0),
        ([claim("a", namespace="llm", labels={"servingplan.dev/plan": "another"})], 1),
        ([claim("a", namespace="x", labels={"servingplan.dev/plan": "chat"})], 1),
        ([{"metadata": {"name": "c", "namespace": "x"}, "status": {}}], 0),
    ],
)
def test_devices_of_claims_that_are_not_the_plan_s_are_held_by_others(claims, held):
    assert counts(part(device("a"), device("b")), claims=claims) == {("n", "gpu.nvidia.com"): (2, held)}


def test_a_claim_without_devices_is_not_held():
    assert seen_claim({"metadata": {"name": "c"}}) is None
    assert seen_claim(claim("a")) == SeenClaim("other", None, frozenset({("gpu.nvidia.com", "n", "a")}))


@pytest.mark.parametrize(
    ("expressions", "driver", "attributes"),
    [
        ([], None, {}),
        (["device.driver == 'gpu.nvidia.com'"], "gpu.nvidia.com", {}),
        (['device.driver=="gpu.amd.com"'], "gpu.amd.com", {}),
        (
            ["device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'mig'"],
            "gpu.nvidia.com",
            {"gpu.nvidia.com/type": "mig"},
        ),
        (
            ["device.driver == 'x.y'", 'device.attributes["x.y"].a == "b" &&\n device.attributes["x.y"].c == "d"'],
            "x.y",
            {"x.y/a": "b", "x.y/c": "d"},
        ),
    ],
)
def test_a_class_that_compares_texts_is_read(expressions, driver, attributes):
    spec = {"selectors": [{"cel": {"expression": item}} for item in expressions]}
    found = device_class_of({"metadata": {"name": "x"}, "spec": spec})
    assert found == DeviceClass(name="x", driver=driver, attributes=attributes)


@pytest.mark.parametrize(
    "expression",
    [
        "device.driver == 'a' || device.driver == 'b'",
        "device.driver.endsWith('.com')",
        "!(device.driver == 'a')",
        "device.capacity['x.y'].memory.compareTo(quantity('40Gi')) >= 0",
        "device.attributes['x.y'].index == 3",
    ],
)
def test_a_class_that_asks_for_more_keeps_its_expression(expression):
    spec = {"selectors": [{"cel": {"expression": "device.driver == 'a'"}}, {"cel": {"expression": expression}}]}
    assert device_class_of({"metadata": {"name": "x"}, "spec": spec}).unread == expression


@pytest.mark.parametrize(
    ("text", "count"), [('{"count":2}', 2), (None, 0), ("x", 0), ("[]", 0), ('{"count":"many"}', 0), ("{}", 0)]
)
def test_a_pod_of_ours_asks_for_what_its_annotation_says(text, count):
    assert asked_devices(text) == count


def test_the_annotation_counts_on_pods_of_plans_alone():
    labels = {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "d"}
    metadata = {"name": "p", "namespace": "x", "uid": "u", "annotations": {"servingplan.dev/devices": '{"count":2}'}}
    pod = {"metadata": {**metadata, "labels": labels}, "spec": {"nodeName": "n", "containers": []}}
    found = seen_pod(pod)
    assert found is not None
    assert found.own.gpus == 2
    assert seen_pod({**pod, "metadata": metadata}) is None
