"""What a turn reads besides its objects: which APIs the server has, and which pods the Services have."""

from contextlib import contextmanager

import pytest

from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEVICE_CLASSES,
    ENDPOINT_SLICES,
    HTTP_ROUTES,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)
from servingplan.model.world import DeviceClass, Devices, Taint
from servingplan.observe import outside
from servingplan.observe.cluster import Reader
from servingplan.observe.engines import MOST_MISSED
from servingplan.observe.parse import node_of
from servingplan.observe.pods import endpoints_of
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy

PLAN = {"metadata": {"namespace": "llm", "name": "chat", "uid": "u", "generation": 1}, "spec": {}}
DEVICE_KINDS = (RESOURCE_SLICES, RESOURCE_CLAIMS, DEVICE_CLASSES, RESOURCE_CLAIM_TEMPLATES)
SETS = Resource("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "LeaderWorkerSet")


class EmptyCluster:
    """An API server with one plan in it, and nothing else but what is ``listed`` of a kind."""

    def __init__(
        self, discovered=SETS, routes=HTTP_ROUTES, spec=None, found=(), listed=None, config_maps=None, devices=None
    ):
        self.discovered = {SETS.kind: discovered, HTTP_ROUTES.kind: routes}
        self.discovered |= {kind.kind: devices or kind for kind in DEVICE_KINDS}
        self.discovered["NodeClaim"] = NotFound(404, "NotFound", "no such group")
        self.spec = spec or {}
        self.config_maps = config_maps or {}
        self.listed = {HTTP_ROUTES: found, **(listed or {})}

    def pages(self, resource, **asked):
        found = [{**PLAN, "spec": self.spec}] if resource.kind == "LLMServingPlan" else self.listed.get(resource, ())
        if isinstance(found, Exception):
            raise found
        if resource == PODS and asked["labels"] != "servingplan.dev/plan":
            found = [item for item in found if "servingplan.dev/plan" not in item["metadata"].get("labels", {})]
        elif resource == PODS:
            found = [item for item in found if "servingplan.dev/plan" in item["metadata"].get("labels", {})]
        yield {"metadata": {"resourceVersion": "7"}, "items": list(found)}

    def get(self, resource, name, **_):
        found = self.config_maps.get(name, NotFound(404, "NotFound", name))
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self, resource):
        pass

    def discover(self, api_version, kind):
        found = self.discovered[kind]
        assert not isinstance(found, Resource) or api_version == found.api_version
        if isinstance(found, Exception):
            raise found
        return found


def observed(*cluster, **more):
    api = EmptyCluster(*cluster, **more)
    state = ClusterState(api, clock=lambda: 100.0)
    state.load()
    reader = Reader(
        api,
        state,
        pool_kinds=None,
        urls=UrlPolicy(api, allowed_hosts=frozenset()),
        clock=lambda: "2026-01-01T00:00:00Z",
    )
    try:
        return reader.observe("llm", "chat")
    finally:
        reader.close()


@pytest.mark.parametrize(("discovered", "there"), [(SETS, True), (NotFound(404, "NotFound", "no such group"), False)])
def test_the_leader_worker_set_api_is_there_or_not(discovered, there):
    world = observed(discovered)
    assert (world.leader_worker_sets, world.failures) == (there, ())


def test_a_server_that_does_not_tell_is_a_failure_and_not_a_no():
    world = observed(ApiError(0, "Unreachable", "connection refused"))
    assert [(item.source, item.reason) for item in world.failures] == [("LeaderWorkerSets", "ReadFailed")]


def test_without_the_right_to_read_groups_there_are_none_to_plan_with():
    refused = Forbidden(403, "Forbidden", "cannot list leaderworkersets")
    world = observed(refused)
    assert (world.leader_worker_sets, world.failures) == (False, ())
    pod = our_pod("a")
    pod["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-index"] = "0"
    world = observed(refused, listed={NODES: [NODE], PODS: [pod]})
    assert [(item.source, item.reason) for item in world.failures] == [("LeaderWorkerSets", "ReadForbidden")]


ON_DEVICES = {
    "budget": {"dollarsPerHour": 1},
    "models": [{"name": "m"}],
    "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}, "dra": {"deviceClass": "x"}}],
}
WITHOUT_DEVICES = {**ON_DEVICES, "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}]}


def device_objects():
    """A node of the pool with two devices, of which somebody's claim holds one."""
    node = {**NODE, "metadata": {**NODE["metadata"], "labels": {"a": "b"}}}
    spec = {"driver": "d.e", "nodeName": "n", "pool": {"name": "n"}, "devices": [{"name": "0"}, {"name": "1"}]}
    held = {"devices": {"results": [{"driver": "d.e", "pool": "n", "device": "0"}]}}
    claim = {"metadata": {"name": "c", "namespace": "x", "uid": "c"}, "status": {"allocation": held}}
    return {
        NODES: [node],
        RESOURCE_SLICES: [{"metadata": {"name": "s", "uid": "s"}, "spec": spec}],
        RESOURCE_CLAIMS: [claim],
        DEVICE_CLASSES: [{"metadata": {"name": "x", "uid": "x"}, "spec": {}}],
    }


def test_nodes_are_read_with_their_devices_and_the_classes_of_the_cluster():
    world = observed(spec=ON_DEVICES, listed=device_objects())
    assert [item.devices for item in world.nodes] == [(Devices(driver="d.e", count=2, held_by_others=1),)]
    assert world.device_classes == (DeviceClass(name="x"),)
    assert world.failures == ()


@pytest.mark.parametrize("spec", [ON_DEVICES, WITHOUT_DEVICES])
def test_where_devices_are_not_served_there_are_none_and_that_is_no_failure(spec):
    world = observed(spec=spec, devices=NotFound(404, "NotFound", "no such group"))
    assert (world.device_classes, world.failures) == ((), ())


def test_devices_that_cannot_be_read_count_where_a_pool_has_any():
    refused = Forbidden(403, "Forbidden", "cannot list resourceslices")
    assert observed(spec=WITHOUT_DEVICES, devices=refused).failures == ()
    found = observed(spec=ON_DEVICES, devices=refused).failures
    assert {item.source for item in found} == {
        "ResourceSlices",
        "ResourceClaims",
        "DeviceClasses",
        "ResourceClaimTemplates",
    }
    assert all("grant it with the chart's ClusterRole" in item.message for item in found)


def test_our_groups_are_read_with_who_else_sets_their_number():
    entry = {"manager": "hpa", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    found = {
        "metadata": {
            "name": "chat-m",
            "namespace": "llm",
            "uid": "s",
            "labels": {"servingplan.dev/plan": "chat"},
            "ownerReferences": [{"controller": True, "uid": "u", "kind": "LLMServingPlan", "name": "chat"}],
            "managedFields": [entry],
        },
        "spec": {"replicas": 2},
    }
    (live,) = observed(listed={SETS: [found]}).deployments()
    assert (live.kind, live.ours, live.manifest["spec"]) == ("LeaderWorkerSet", True, {"replicas": 2})
    assert live.replicas_owner == ("hpa", "2026-01-01T00:00:00Z")


ROUTED = {
    "budget": {"dollarsPerHour": 1},
    "models": [{"name": "m"}],
    "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
    "gateway": {"httpRoute": {"parentRefs": [{"name": "public"}]}},
}
ROUTE = {
    "metadata": {
        "name": "chat-m",
        "namespace": "llm",
        "labels": {"servingplan.dev/plan": "chat"},
        "uid": "r",
        "generation": 4,
        "annotations": {"servingplan.dev/spec-hash": "1f", "other": "x"},
        "ownerReferences": [{"controller": True, "uid": "u", "kind": "LLMServingPlan", "name": "chat"}],
    },
    "spec": {"rules": []},
    "status": {"parents": []},
}


def test_our_routes_are_read_with_what_gateways_say():
    (route,) = observed(found=[ROUTE]).objects
    assert (route.kind, route.ours) == ("HTTPRoute", True)
    assert route.manifest["metadata"]["generation"] == 4
    assert route.manifest["metadata"]["annotations"] == {"servingplan.dev/spec-hash": "1f"}
    assert route.manifest["status"] == {"parents": []}


def test_without_the_gateway_api_the_turn_goes_on_and_says_what_lacks():
    world = observed(routes=NotFound(404, "NotFound", "no such group"), spec=ROUTED)
    assert world.failures == ()
    assert "install the CRDs of the Gateway API" in world.http_routes_unread


def test_without_the_right_to_read_routes_the_turn_goes_on_and_names_the_right():
    world = observed(routes=Forbidden(403, "Forbidden", "cannot list httproutes"), spec=ROUTED)
    assert world.failures == ()
    assert "cannot list httproutes; grant it" in world.http_routes_unread


def test_routes_that_may_be_there_and_cannot_be_read_hold_the_turn_where_they_count():
    away = ApiError(0, "Unreachable", "connection refused")
    assert [item.source for item in observed(routes=away, spec=ROUTED).failures] == ["HTTPRoutes"]
    assert observed(routes=away, spec={**ROUTED, "gateway": {}}).failures == ()


NODE = {"metadata": {"name": "n", "uid": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def our_pod(uid):
    labels = {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "chat-m"}
    return {
        "metadata": {"namespace": "llm", "name": uid, "uid": uid, "labels": labels},
        "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def slice_of(*endpoints, service="chat-m"):
    """Uid and conditions of each endpoint."""
    return {
        "metadata": {
            "name": "x",
            "uid": f"x-{service}",
            "namespace": "llm",
            "labels": {"kubernetes.io/service-name": service, "servingplan.dev/plan": "chat"},
        },
        "endpoints": [
            {"targetRef": {"kind": "Pod", "uid": uid}, "conditions": conditions} for uid, conditions in endpoints
        ],
    }


def test_gateways_can_reach_a_replica_when_its_own_service_lists_it():
    listed = {
        NODES: [NODE],
        PODS: [our_pod("a"), our_pod("b"), our_pod("c")],
        ENDPOINT_SLICES: [slice_of(("a", {"ready": True})), slice_of(("b", {}), service="other")],
    }
    pods = observed(listed=listed).pods
    assert all(pod.ready for pod in pods)
    assert {pod.name: pod.reachable for pod in pods} == {"a": True, "b": False, "c": False}


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({}, True),
        ({"ready": None}, True),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "terminating": True}, False),
    ],
)
def test_an_endpoint_takes_requests_when_it_is_ready_and_stays(conditions, ready):
    assert endpoints_of(slice_of(("a", conditions))) == ({("chat-m", "a")} if ready else set())


def test_slices_of_no_service_or_without_pods_are_passed_over():
    nobodys = {**slice_of(("a", {})), "metadata": {"name": "x"}}
    by_hand = {**slice_of(), "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]}
    empty = {**slice_of(), "endpoints": None}
    assert [endpoints_of(item) for item in (nobodys, by_hand, empty)] == [set()] * 3


def test_endpoint_slices_that_may_not_be_read_are_a_failure_that_names_the_right():
    (failure,) = observed(listed={ENDPOINT_SLICES: Forbidden(403, "Forbidden", "cannot list endpointslices")}).failures
    assert (failure.source, failure.reason) == ("EndpointSlices", "ReadForbidden")
    assert failure.message.endswith("cannot list endpointslices; grant it with the chart's ClusterRole")


def test_measured_rates_are_read_in_the_order_of_the_spec_and_what_cannot_be_had_is_a_fact():
    names = ("good", "gone", "shut", "empty")
    world = observed(
        spec={**ROUTED, "gateway": {}, "profiles": [{"configMap": name} for name in names]},
        config_maps={
            "good": {"data": {"rows.csv": "model,gpu\n"}},
            "shut": Forbidden(403, "Forbidden", "cannot get configmaps"),
            "empty": {"data": {"other": "x"}},
        },
    )
    assert world.failures == ()
    assert [(item.config_map, item.rows, item.problem_reason) for item in world.profiles] == [
        ("good", "model,gpu\n", None),
        ("gone", "", "ProfilesMissing"),
        ("shut", "", "ReadForbidden"),
        ("empty", "", "ProfilesMissing"),
    ]
    assert "rows.csv" in world.profiles[3].problem


def looked(api, catalogue_namespace):
    state = ClusterState(api, catalogue_namespace=catalogue_namespace, clock=lambda: 100.0)
    state.load()
    reader = Reader(
        api,
        state,
        pool_kinds=None,
        urls=UrlPolicy(api, allowed_hosts=frozenset()),
        clock=lambda: "2026-01-01T00:00:00Z",
    )
    try:
        return reader.observe("llm", "chat")
    finally:
        reader.close()


def only_in_the_operators_namespace(found):
    """An API server whose ConfigMaps are all additions to the catalogue."""
    api = EmptyCluster()
    plain = api.pages

    def pages(resource, **asked):
        if resource == CONFIG_MAPS and (asked["namespace"], asked["labels"]) == (
            "operator",
            "servingplan.dev/catalogue",
        ):
            if isinstance(found, Exception):
                raise found
            return iter([{"metadata": {"resourceVersion": "7"}, "items": found}])
        return plain(resource, **asked)

    api.pages = pages
    return api


def test_catalogues_of_the_installation_are_read_by_their_label():
    found = [
        {
            "metadata": {"name": "b", "uid": "1", "labels": {"servingplan.dev/catalogue": "prices"}},
            "data": {"y": "2", "x": "1"},
        },
        {"metadata": {"name": "a", "uid": "2", "labels": {"servingplan.dev/catalogue": "gpus"}}, "data": {"k": "0"}},
    ]
    world = looked(only_in_the_operators_namespace(found), "operator")
    assert [(item.config_map, item.kind, item.key, item.text) for item in world.catalogues] == [
        ("a", "gpus", "k", "0"),
        ("b", "prices", "x", "1"),
        ("b", "prices", "y", "2"),
    ]
    assert looked(only_in_the_operators_namespace(found), None).catalogues == ()


def test_catalogues_that_cannot_be_read_are_told_and_the_turn_goes_on():
    world = looked(only_in_the_operators_namespace(Forbidden(403, "Forbidden", "cannot list configmaps")), "operator")
    assert world.failures == ()
    (seen,) = world.catalogues
    assert "cannot list configmaps" in seen.problem


def test_a_model_s_own_config_is_read_or_told():
    spec = {**ROUTED, "gateway": {}, "models": [{"name": "m", "modelConfig": {"configMap": "own"}}]}
    world = observed(spec=spec, config_maps={"own": {"metadata": {"name": "own"}, "data": {"config.json": "{}"}}})
    assert [(item.config_map, item.text, item.problem) for item in world.model_configs] == [("own", "{}", None)]
    (missing,) = observed(spec=spec).model_configs
    assert "does not exist" in missing.problem
    (empty,) = observed(spec=spec, config_maps={"own": {"metadata": {"name": "own"}}}).model_configs
    assert "has no key config.json" in empty.problem


def of_pools(spec, listed, *kinds):
    """The world of a plan whose API server also knows these kinds of pool objects."""
    api = EmptyCluster(spec=spec, listed=listed)
    known = {SETS.kind: SETS, HTTP_ROUTES.kind: HTTP_ROUTES, **{resource.kind: resource for resource in kinds}}
    api.discover = lambda api_version, kind: known[kind]
    state = ClusterState(api, clock=lambda: 100.0)
    state.load()
    urls = UrlPolicy(api, allowed_hosts=frozenset())
    reader = Reader(api, state, pool_kinds=None, urls=urls, clock=lambda: "2026-01-01T00:00:00Z")
    try:
        return reader.observe("llm", "chat")
    finally:
        reader.close()


NODE_POOL = Resource("karpenter.sh/v1", "nodepools", "NodePool", namespaced=False)
SIZED = {
    "budget": {"dollarsPerHour": 1},
    "models": [{"name": "m"}],
    "nodePools": [
        {
            "name": "p",
            "nodeSelector": {"a": "b"},
            "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "p"},
        }
    ],
}


def pool_claimed_by(holder, *others, startup_taints=()):
    annotations = {"servingplan.dev/claimed-by": holder, "servingplan.dev/max-nodes": "7"}
    template = {"spec": {"startupTaints": list(startup_taints)}}
    spec = {"replicas": 3, "template": template}
    item = {"metadata": {"name": "p", "uid": "p", "annotations": annotations}, "spec": spec}
    api = EmptyCluster(spec=SIZED, listed={NODE_POOL: [item]})
    own = api.pages

    def pages(resource, **asked):
        for page in own(resource, **asked):
            plans = [{"metadata": {"namespace": "llm", "name": name, "uid": name, "generation": 1}} for name in others]
            yield {**page, "items": [*page["items"], *(plans if resource.kind == "LLMServingPlan" else ())]}

    api.pages = pages
    api.discover = lambda api_version, kind: {SETS.kind: SETS, HTTP_ROUTES.kind: HTTP_ROUTES, "NodePool": NODE_POOL}[
        kind
    ]
    state = ClusterState(api, clock=lambda: 100.0)
    state.load()
    reader = Reader(
        api,
        state,
        pool_kinds=None,
        urls=UrlPolicy(api, allowed_hosts=frozenset()),
        clock=lambda: "2026-01-01T00:00:00Z",
    )
    try:
        (found,) = reader.observe("llm", "chat").pools
    finally:
        reader.close()
    return found


def test_a_claim_of_a_plan_that_is_gone_is_no_claim():
    found = pool_claimed_by("llm/gone")
    assert (found.claimed_by, found.orphan_of, found.wanted, found.max_nodes) == (None, "llm/gone", 3, 7)


def test_startup_taints_are_those_that_the_pool_lists():
    listed = [{"key": "a", "effect": "NoExecute"}, {"key": "soft", "effect": "PreferNoSchedule"}, "odd"]
    found = pool_claimed_by("llm/gone", startup_taints=listed)
    assert found.template.startup_taints == (Taint(key="a", effect="NoExecute"),)


def test_a_claim_of_a_plan_that_is_there_holds():
    found = pool_claimed_by("llm/other", "other")
    assert (found.claimed_by, found.orphan_of) == ("llm/other", None)


def test_nodes_that_name_a_pool_s_object_are_seen_whether_its_selector_matches_or_not():
    pool = {"name": "p", "nodeSelector": {"pool": "p"}, "gpu": "L40S", "gpusPerNode": 8, "dollarsPerNodeHour": 1}
    resize = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "np"}
    spec = {"budget": {"dollarsPerHour": 1}, "models": [{"name": "llama-3.1-8b"}], "nodePools": [pool]}
    labels = {"stray": {"karpenter.sh/nodepool": "np"}, "match": {"pool": "p"}, "other": {"karpenter.sh/nodepool": "x"}}
    nodes = [{"metadata": {"name": name, "uid": name, "labels": found}} for name, found in labels.items()]

    def names_of(pools):
        sized = {"metadata": {"name": "np", "uid": "np"}, "spec": {"replicas": 1}}
        world = of_pools({**spec, "nodePools": pools}, {NODES: nodes, NODE_POOL: [sized]}, NODE_POOL)
        return [node.name for node in world.nodes]

    assert names_of([pool]) == ["match"]
    assert names_of([{**pool, "resize": resize}]) == ["match", "stray"]


@contextmanager
def reader_of_draining(monkeypatch, since_by_name, answers):
    """Each turn's answers of the engines are taken from ``answers``; those asked are returned as well."""
    asked, left = [], iter(answers)

    def requests_inside(addresses, threads):
        asked.append(list(addresses))
        return next(left)

    monkeypatch.setattr(outside, "requests_inside", requests_inside)

    def pod(name, since):
        return {
            "metadata": {
                "namespace": "llm",
                "name": name,
                "uid": f"uid-{name}",
                "labels": {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "d"},
                "annotations": {"servingplan.dev/draining-since": since} if since else {},
            },
            "spec": {"nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }

    pods = [pod(*item) for item in since_by_name.items()]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    spec = {
        "budget": {"dollarsPerHour": 1},
        "models": [{"name": "llama-3.1-8b"}],
        "nodePools": [{"name": "p", "nodeSelector": {"pool": "p"}}],
    }
    api = EmptyCluster(
        spec=spec, listed={PODS: pods, NODES: [{"metadata": {"name": "n", "uid": "n"}, "status": ready}]}
    )
    state = ClusterState(api, clock=lambda: 100.0)
    state.load()
    reader = Reader(
        api,
        state,
        pool_kinds=None,
        urls=UrlPolicy(api, allowed_hosts=frozenset()),
        clock=lambda: "2026-01-01T00:00:00Z",
    )
    try:
        yield reader, asked
    finally:
        reader.close()


OVER, YOUNG = "2025-12-31T23:59:30Z", "2025-12-31T23:59:31Z"


def told(reader):
    return {pod.name: pod.requests_inside for pod in reader.observe("llm", "chat").pods}


def test_engines_are_asked_at_the_end_of_the_drain_and_silent_ones_not_every_turn(monkeypatch):
    pods = {"busy": OVER, "silent": OVER, "young": YOUNG, "serves": None}
    answers = [{"uid-busy": 3, "uid-silent": None}, {"uid-busy": 3}]
    with reader_of_draining(monkeypatch, pods, answers) as (reader, asked):
        assert told(reader) == {"busy": 3, "silent": None, "young": None, "serves": None}
        told(reader)
    assert asked == [["uid-busy", "uid-silent"], ["uid-busy"]]


def test_an_engine_that_told_of_requests_is_believed_until_it_is_silent_several_times_in_a_row(monkeypatch):
    answers = [{"uid-busy": count} for count in (3, None, 2, *[None] * MOST_MISSED)]
    with reader_of_draining(monkeypatch, {"busy": OVER}, answers) as (reader, _):
        seen = [told(reader)["busy"] for _ in answers]
    assert seen == [3, 3, 2, *[2] * (MOST_MISSED - 1), None]


def test_an_engine_that_was_idle_and_is_silent_is_not_waited_for(monkeypatch):
    with reader_of_draining(monkeypatch, {"idle": OVER}, [{"uid-idle": 0}, {"uid-idle": None}]) as (reader, _):
        assert [told(reader)["idle"] for _ in range(2)] == [0, None]


def test_engines_for_which_a_turn_had_no_time_are_asked_first_in_the_next(monkeypatch):
    with reader_of_draining(monkeypatch, {"a": OVER, "b": OVER}, [{"uid-a": 1}, {"uid-b": 0}]) as (reader, asked):
        first, second = (reader.observe("llm", "chat").pods for _ in range(2))
    assert [(pod.requests_inside, pod.unasked) for pod in first] == [(1, False), (None, True)]
    assert [(pod.requests_inside, pod.unasked) for pod in second] == [(1, False), (0, False)]
    assert asked[1] == ["uid-b", "uid-a"]


@pytest.mark.parametrize("holder", ["nobody", "/", "llm/", "/x"])
def test_a_claim_that_names_no_plan_is_no_claim(holder):
    found = pool_claimed_by(holder)
    assert (found.claimed_by, found.orphan_of) == (None, holder)


def test_the_claim_of_a_plan_that_was_forced_away_and_made_anew_is_its_own():
    assert pool_claimed_by("llm/chat").claimed_by == "llm/chat"


@pytest.mark.parametrize(
    ("allocatable", "told"),
    [
        ({"cpu": "47810m", "memory": "196Gi"}, (47_810, 196 * 2**30)),
        ({"cpu": "48", "memory": "2056345Ki"}, (48_000, 2_056_345 * 1024)),
        ({"cpu": "48", "memory": "many"}, (48_000, None)),
        ({}, (None, None)),
    ],
)
def test_what_a_node_has_beside_gpus(allocatable, told):
    found = node_of({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}})
    assert (found.cpu_millicores, found.memory_bytes) == told


@pytest.mark.parametrize(
    ("annotations", "machine"),
    [
        ({"cluster.x-k8s.io/machine": "m", "cluster.x-k8s.io/cluster-namespace": "llm"}, "llm/m"),
        ({"cluster.x-k8s.io/machine": "m"}, ""),
        (None, ""),
    ],
)
def test_the_machine_of_a_node_is_the_one_that_cluster_api_notes_on_it(annotations, machine):
    assert node_of({"metadata": {"name": "n", "annotations": annotations}}).machine == machine
