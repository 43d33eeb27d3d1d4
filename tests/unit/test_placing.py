"""How a pod is tied to its node and let go: only our own gate is taken away, and only from the list that was read."""

import copy

import pytest

from servingplan.apply.writer import Writer
from servingplan.errors import Invalid, NotFound
from servingplan.kube import PODS
from servingplan.model import names
from servingplan.model.actions import PlacePod
from servingplan.model.world import Observation, PlanObject

WORLD = Observation(
    now="2026-01-01T00:00:00Z",
    plan=PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={}),
)
TERMS = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}
PLACE = PlacePod(pod="p", uid="uid-p", node="n", node_affinity=TERMS, why="w")


class OnePod:
    """An API server with one pod, which takes JSON patches as RFC 6902 says."""

    def __init__(self, *gates, uid="uid-p", **spec):
        self.pod = {
            "metadata": {"name": "p", "uid": uid},
            "spec": {"schedulingGates": [{"name": gate} for gate in gates], **spec},
        }
        self.meanwhile = lambda pod: None

    def get(self, resource, name, *, namespace):
        assert (resource, name, namespace) == (PODS, "p", "llm")
        found = copy.deepcopy(self.pod)
        self.meanwhile(self.pod)
        return found

    def json_patch(self, resource, name, operations, *, manager, namespace):
        assert (resource, name, namespace, manager) == (PODS, "p", "llm", names.FIELD_MANAGER)
        after = copy.deepcopy(self.pod)
        for item in operations:
            *way, last = [part.replace("~1", "/").replace("~0", "~") for part in item["path"].split("/")[1:]]
            holder = after
            for key in way:
                holder = holder[int(key) if isinstance(holder, list) else key]
            key = int(last) if isinstance(holder, list) else last
            if item["op"] == "test" and holder[key] != item["value"]:
                raise Invalid(422, "Invalid", f"testing path {item['path']} value failed")
            if item["op"] == "add":
                holder[key] = item["value"]
            if item["op"] == "remove":
                del holder[key]
        self.pod = after
        return after


def placed(api):
    return Writer(api).write((PLACE,), world=WORLD, spec=None)


def test_a_pod_is_tied_to_its_node_and_loses_our_gate():
    api = OnePod(names.PLACEMENT_GATE)
    assert placed(api).done == (PLACE,)
    assert api.pod["spec"]["schedulingGates"] == []
    assert api.pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == TERMS
    assert api.pod["metadata"]["annotations"] == {
        names.PLACED_ON_ANNOTATION: "n",
        names.PLACED_SINCE_ANNOTATION: WORLD.now,
    }


def test_what_else_the_pod_says_of_affinity_and_its_annotations_stay():
    spread = {"podAntiAffinity": {"x": 1}, "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [2]}}
    api = OnePod(names.PLACEMENT_GATE, affinity=spread)
    api.pod["metadata"]["annotations"] = {"theirs": "1"}
    placed(api)
    assert api.pod["spec"]["affinity"]["podAntiAffinity"] == {"x": 1}
    assert api.pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == [2]
    assert api.pod["metadata"]["annotations"]["theirs"] == "1"


@pytest.mark.parametrize(
    "gates", [("kueue.x-k8s.io/admission", names.PLACEMENT_GATE), (names.PLACEMENT_GATE, "x"), ("x",), ()]
)
def test_a_pod_with_another_gate_or_without_ours_is_left_as_it_is(gates):
    api = OnePod(*gates)
    before = copy.deepcopy(api.pod)
    outcome = placed(api)
    assert api.pod == before
    assert outcome.done == ()
    assert [item.reason for item in outcome.refused] == ["Changed"]


def test_gates_that_change_between_reading_and_writing_are_left_as_they_are():
    api = OnePod(names.PLACEMENT_GATE)
    api.meanwhile = lambda pod: pod["spec"]["schedulingGates"].append({"name": "x"})
    outcome = placed(api)
    assert outcome.done == ()
    assert [gate["name"] for gate in api.pod["spec"]["schedulingGates"]] == [names.PLACEMENT_GATE, "x"]


def test_a_pod_of_that_name_that_is_another_one_is_no_pod_of_ours():
    api = OnePod(names.PLACEMENT_GATE, uid="another")
    outcome = placed(api)
    assert (outcome.done, outcome.refused) == ((), ())
    assert api.pod["spec"]["schedulingGates"] == [{"name": names.PLACEMENT_GATE}]


def test_a_pod_that_went_is_no_error():
    class Nothing(OnePod):
        def get(self, resource, name, *, namespace):
            raise NotFound(404, "NotFound", name)

    assert placed(Nothing()).refused == ()
