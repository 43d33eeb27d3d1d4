"""The simulated cluster shows what the reader would make of the same objects, and acts as Kubernetes does."""

from servingplan.model import names
from servingplan.observe import parse
from servingplan.observe.pods import endpoints_of, pod_of
from tests.simulated.cluster import NAMESPACE, PLAN
from tests.simulated.plans import model, operator, plan


def raw_node(node):
    return {
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {
            "unschedulable": not node.schedulable,
            "taints": [{"key": "karpenter.sh/disrupted"}] if node.disrupted else [],
        },
        "status": {
            "allocatable": {names.GPU_RESOURCE: str(node.gpus)},
            "conditions": [{"type": "Ready", "status": str(node.ready)}],
        },
    }


def raw_pod(pod):
    """The pod as the API server has it, Ready condition and all."""
    annotations = {
        names.PLACED_ON_ANNOTATION: pod.placed_on,
        names.PLACED_SINCE_ANNOTATION: pod.placed_since and pod.placed_since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        names.DRAINING_SINCE_ANNOTATION: pod.draining_since,
    }
    labels = {
        names.PLAN_LABEL: PLAN,
        names.DEPLOYMENT_LABEL: pod.deployment,
        names.SERVING_LABEL: str(pod.serving).lower(),
    }
    conditions = [{"type": "Ready", "status": str(pod.reports_ready)}]
    if pod.unschedulable:
        conditions.append(
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "no node has the GPUs",
            }
        )
    return {
        "metadata": {
            "namespace": NAMESPACE if pod.deployment else "elsewhere",
            "name": pod.name,
            "uid": pod.uid,
            "creationTimestamp": pod.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": labels if pod.deployment else {},
            "annotations": {key: value for key, value in annotations.items() if value},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if pod.terminating else {}),
        },
        "spec": {
            "nodeName": pod.node,
            "schedulingGates": [
                {"name": gate} for gate in (*pod.other_gates, *([names.PLACEMENT_GATE] if pod.gated else []))
            ],
            "containers": [{"resources": {"limits": {names.GPU_RESOURCE: str(pod.gpus)}}}],
        },
        "status": {"conditions": conditions, "containerStatuses": [{"name": "engine", "started": pod.started}]},
    }


def raw_slice(service, pods):
    """As the EndpointSlice controller writes it."""
    return {
        "metadata": {"name": f"{service}-x", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [
            {"targetRef": {"kind": "Pod", "uid": pod.uid}, "conditions": {"ready": listed}} for pod, listed in pods
        ],
    }


def same_facts(cluster):
    world = cluster.observe()
    nodes = {name: parse.node_of(raw_node(node)) for name, node in cluster.nodes.items()}
    assert sorted(nodes.values(), key=lambda node: node.name) == list(world.nodes)
    endpoints = set()
    for name in {pod.deployment for pod in cluster.our_pods()}:
        listed = [(pod, cluster.is_listed(pod)) for pod in cluster.pods_of(name)]
        endpoints |= endpoints_of(raw_slice(name, listed))
    given = {"plan_label": PLAN, "namespace": NAMESPACE, "nodes": nodes, "endpoints": endpoints}
    pods = [pod_of(raw_pod(pod), **given) for pod in cluster.pods.values()]
    assert sorted(pods, key=lambda pod: pod.name) == list(world.pods)
    for (kind, _), manifest in cluster.objects.items():
        live = world.live(kind, manifest["metadata"]["name"])
        metadata = {**manifest["metadata"], "uid": live.uid}
        read = parse.object_of({**manifest, "metadata": metadata}, kind=kind, plan_uid="plan-uid")
        assert read.ours
        assert (read.name, read.owner) == (live.name, live.owner)
        for key in ("spec", "data"):
            assert read.manifest.get(key) == live.manifest.get(key)
        assert read.manifest["metadata"]["annotations"] == live.manifest["metadata"].get("annotations", {})


def test_the_reader_would_see_the_same_facts_at_every_moment_of_a_busy_life():
    driver = operator(plan(), collect_ticks=3, slice_ticks=1)
    for tick in range(40):
        match tick:
            case 10:
                driver.cluster.edit(plan(model(engine={"image": "new"})))
            case 20:
                driver.cluster.lose_node(min(driver.cluster.nodes))
            case 25:
                driver.cluster.nodes[min(driver.cluster.nodes)].ready = False
            case 28:
                driver.cluster.nodes[min(driver.cluster.nodes)].ready = True
                driver.cluster.nodes[min(driver.cluster.nodes)].disrupted = True
            case 30:
                driver.cluster.edit(plan(budget="2"))
        driver.turn()
        same_facts(driver.cluster)
        driver.cluster.tick()
        same_facts(driver.cluster)


def test_a_pod_of_a_node_that_is_gone_is_ready_in_the_api_and_not_to_the_operator():
    driver = operator(plan(), collect_ticks=5)
    driver.settle()
    driver.cluster.lose_node("l40s-1")
    (ghost,) = [pod for pod in driver.cluster.our_pods() if pod.node == "l40s-1"]
    assert ghost.reports_ready
    assert not next(pod for pod in driver.cluster.observe().pods if pod.name == ghost.name).ready
