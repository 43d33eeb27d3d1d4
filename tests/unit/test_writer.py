"""A pool is written only where nobody else has it, at its owner's path, and only if it is as it was seen."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.apply.writer import Writer
from servingplan.errors import ApiError, NotFound
from servingplan.kube import Resource
from servingplan.model.actions import ClaimPool, ResizePool
from servingplan.model.names import POOL_MANAGER
from tests.simulated.plans import operator, plan
from tests.unit.pool_kinds.pool_objects import AKS_AGENT_POOL, EKS_NODEGROUP, GKE_NODE_POOL, MACHINE_DEPLOYMENT, changed

NODE_POOLS = Resource("karpenter.sh/v1", "nodepools", "NodePool", namespaced=False)
CLAIM = ClaimPool(pool="l40s", claimed_by="llm/chat", why="w")


class Pools:
    """An API server with one pool object."""

    def __init__(self, holder, **spec):
        self.item = {
            "metadata": {"resourceVersion": "7", "annotations": {"servingplan.dev/claimed-by": holder}},
            "spec": spec or {"replicas": 0},
        }
        self.patches = []

    def discover(self, *_):
        return NODE_POOLS

    def get(self, *_, **__):
        return self.item

    def merge(self, resource, name, patch, *, manager, namespace):
        self.patches.append(patch)


def written(api, action, **pool):
    world = operator(plan()).cluster.observe()
    seen = world.pools[0].model_copy(update=pool)
    world = world.model_copy(update={"pools": (seen,)})
    spec, _ = parse_spec(world.plan.spec)
    return Writer(api).write((action,), world=world, spec=spec)


def test_a_claim_that_was_left_behind_is_taken_over():
    api = Pools("llm/gone")
    assert written(api, CLAIM, orphan_of="llm/gone").refused == ()
    (patch,) = api.patches
    assert patch["metadata"]["annotations"]["servingplan.dev/claimed-by"] == "llm/chat"
    assert patch["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize("orphan", [None, "llm/gone"])
def test_one_that_another_plan_made_meanwhile_is_not(orphan):
    api = Pools("llm/other")
    (refused,) = written(api, CLAIM, orphan_of=orphan).refused
    assert (refused.reason, api.patches) == ("ClaimedByOther", [])


def test_the_size_is_written_at_the_owners_path_whatever_the_plan_says():
    api = Pools("llm/chat", count=1, replicas=9)
    resize = ResizePool(pool="l40s", before=1, nodes=2, why="w")
    assert written(api, resize, path=("spec", "count"), wanted=1).refused == ()
    assert api.patches[0]["spec"] == {"count": 2}


def resized(item, *, nodes, wanted, more=None, path=None):
    """Refusals, and patches of an object of another kind, which the plan has."""
    kind, version = item["kind"], item["apiVersion"]
    resource = Resource(version, f"{kind.lower()}s", kind, True)
    item = changed(item, ("metadata", "resourceVersion"), "9")
    annotations = {**item["metadata"].get("annotations", {}), "servingplan.dev/claimed-by": "llm/chat", **(more or {})}
    api = Pools("llm/chat")
    api.item = changed(item, ("metadata", "annotations"), annotations)
    api.discover = lambda *_: resource
    world = operator(plan()).cluster.observe()
    seen = world.pools[0].model_copy(update={"path": path, "wanted": wanted})
    resize = {"apiVersion": version, "kind": kind, "name": item["metadata"]["name"]}
    spec = dict(world.plan.spec)
    spec["nodePools"] = [{**pool, "resize": resize} if pool["name"] == "l40s" else pool for pool in spec["nodePools"]]
    parsed, _ = parse_spec(spec)
    action = ResizePool(pool="l40s", before=wanted, nodes=nodes, why="w")
    outcome = Writer(api).write((action,), world=world.model_copy(update={"pools": (seen,)}), spec=parsed)
    return [item.reason for item in outcome.refused], api.patches


ZONES = changed(GKE_NODE_POOL, ("spec", "nodeLocations"), ["us-central1-a", "us-central1-b"])
WRITES = [
    (MACHINE_DEPLOYMENT, ("spec", "replicas"), 3, 5, {"spec": {"replicas": 5}}),
    (EKS_NODEGROUP, ("spec", "scalingConfig", "desiredSize"), 2, 5, {"spec": {"scalingConfig": {"desiredSize": 5}}}),
    (GKE_NODE_POOL, ("spec", "nodeCount"), 2, 5, {"spec": {"nodeCount": 5}}),
    (ZONES, ("spec", "nodeCount"), 4, 6, {"spec": {"nodeCount": 3}}),
    (AKS_AGENT_POOL, ("spec", "count"), 1, 5, {"spec": {"count": 5}}),
]


@pytest.mark.parametrize(("item", "path", "wanted", "nodes", "patch"), WRITES)
def test_one_field_of_the_kind_is_written_beside_our_notes(item, path, wanted, nodes, patch):
    refused, (written,) = resized(item, path=path, wanted=wanted, nodes=nodes)
    assert refused == []
    notes = {"servingplan.dev/claimed-by": "llm/chat", "servingplan.dev/asked-nodes": str(nodes)}
    assert written == {"metadata": {"resourceVersion": "9", "annotations": notes}, **patch}


def test_a_size_that_the_object_cannot_have_is_refused_before_it_is_sent():
    assert resized(ZONES, path=("spec", "nodeCount"), wanted=4, nodes=5) == (["Invalid"], [])


def test_an_autoscaler_that_came_since_the_object_was_read_keeps_its_size():
    bound = {"cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size": "9"}
    found = resized(MACHINE_DEPLOYMENT, path=("spec", "replicas"), wanted=3, nodes=5, more=bound)
    assert found == (["Changed"], [])


# --- Machines of Cluster API ---------------------------------------------------------------------------------------------


MARK = "cluster.x-k8s.io/delete-machine"


class Machines(Pools):
    """An API server with a MachineDeployment and its Machines; notes the order of all writes."""

    def __init__(self, **machines):
        super().__init__("llm/chat")
        self.item = changed(MACHINE_DEPLOYMENT, ("metadata", "resourceVersion"), "9")
        self.item["metadata"]["annotations"] = {"servingplan.dev/claimed-by": "llm/chat"}
        self.machines = machines
        self.order = []

    def discover(self, version, kind):
        return Resource(version, f"{kind.lower()}s", kind, True)

    def get(self, resource, name, *, namespace):
        if resource.kind == "MachineDeployment":
            return self.item
        if name not in self.machines:
            raise NotFound(404, "NotFound", f"no machine {name}")
        owner, mark = self.machines[name]
        return {
            "metadata": {
                "uid": f"uid-{name}",
                "labels": {"cluster.x-k8s.io/deployment-name": owner},
                "annotations": {} if mark is None else {MARK: mark},
            }
        }

    def merge(self, resource, name, patch, *, manager, namespace):
        self.order.append((resource.kind, name, patch))


def shrunk(api, *, nodes=1, wanted=3, **marks):
    world = operator(plan()).cluster.observe()
    seen = world.pools[0].model_copy(update={"path": ("spec", "replicas"), "wanted": wanted})
    spec = dict(world.plan.spec)
    resize = {"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment", "name": "l40s", "namespace": "llm"}
    spec["nodePools"] = [{**pool, "resize": resize} if pool["name"] == "l40s" else pool for pool in spec["nodePools"]]
    parsed, _ = parse_spec(spec)
    action = ResizePool(pool="l40s", before=wanted, nodes=nodes, why="w", **marks)
    return Writer(api).write((action,), world=world.model_copy(update={"pools": (seen,)}), spec=parsed)


def test_the_machines_that_go_are_marked_before_the_size_falls_and_those_that_stay_are_not():
    api = Machines(a=("l40s", None), b=("l40s", None), c=("l40s", POOL_MANAGER), d=("l40s", "by hand"))
    found = shrunk(api, machines=("llm/a", "llm/b"), spared=("llm/c", "llm/d"))
    assert found.refused == ()
    assert [(kind, name) for kind, name, _ in api.order] == [
        ("Machine", "a"),
        ("Machine", "b"),
        ("Machine", "c"),
        ("MachineDeployment", "l40s"),
    ]
    assert api.order[0][2] == {"metadata": {"uid": "uid-a", "annotations": {MARK: POOL_MANAGER}}}
    assert api.order[2][2] == {"metadata": {"uid": "uid-c", "annotations": {MARK: None}}}


def test_a_machine_of_another_object_or_namespace_or_one_that_is_gone_is_left_alone():
    api = Machines(a=("another", None))
    found = shrunk(api, machines=("llm/a", "elsewhere/b", "llm/gone"))
    assert found.refused == ()
    assert [kind for kind, _, _ in api.order] == ["MachineDeployment"]


def test_without_machines_in_the_action_none_is_read():
    api = Machines()
    assert shrunk(api).refused == ()
    assert [kind for kind, _, _ in api.order] == ["MachineDeployment"]


def test_a_size_that_somebody_changed_meanwhile_marks_nothing():
    api = Machines(a=("l40s", None))
    (refused,) = shrunk(api, wanted=5, machines=("llm/a",)).refused
    assert (refused.reason, api.order) == ("Changed", [])


def test_a_mark_that_is_refused_leaves_the_size_as_it_is():
    class Forbidding(Machines):
        def merge(self, resource, name, patch, *, manager, namespace):
            if resource.kind == "Machine":
                raise ApiError(403, "Forbidden", "may not patch machines")
            super().merge(resource, name, patch, manager=manager, namespace=namespace)

    api = Forbidding(a=("l40s", None))
    (refused,) = shrunk(api, machines=("llm/a",)).refused
    assert (refused.reason, api.order) == ("Forbidden", [])
