"""The word of a gateway counts for the parent and the generation that it names."""

import pytest

from servingplan.model.world import LiveObject
from servingplan.routing.route_reports import complaints

REF = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "llm", "name": "public"}
SECURE = {**REF, "sectionName": "https"}


def conditions(accepted="True", resolved="True", generation=3):
    said = {"reason": "Why", "message": "so it is"}
    return [
        {"type": kind, "status": status, "observedGeneration": generation, **said}
        for kind, status in (("Accepted", accepted), ("ResolvedRefs", resolved))
    ]


def reasons(*parents, refs=(REF,)):
    manifest = {
        "metadata": {"generation": 3},
        "spec": {"parentRefs": list(refs)},
        "status": {"parents": [{"parentRef": ref, "conditions": said} for ref, said in parents]},
    }
    route = LiveObject(kind="HTTPRoute", name="chat-m-1", uid="u", ours=True, owner="", manifest=manifest)
    return [item.reason for item in complaints(route)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (conditions(), []),
        (conditions(generation=2), ["NotAcknowledged", "NotAcknowledged"]),
        (conditions(generation=4), ["NotAcknowledged", "NotAcknowledged"]),
        (conditions(accepted="False"), ["NotAccepted"]),
        (conditions(accepted="Unknown"), ["NotAccepted"]),
        (conditions(resolved="False"), ["RefsNotResolved"]),
        (conditions()[:1], ["NotAcknowledged"]),
        ([], ["NotAcknowledged", "NotAcknowledged"]),
        (None, ["NotAcknowledged", "NotAcknowledged"]),
    ],
)
def test_both_conditions_must_hold_of_the_present_generation(said, expected):
    assert reasons((REF, said)) == expected


def test_every_parent_must_answer():
    assert reasons((REF, conditions()), refs=(REF, SECURE)) == ["NotAcknowledged"]
    assert reasons((REF, conditions()), (SECURE, conditions()), refs=(REF, SECURE)) == []
    assert reasons(refs=(REF, SECURE)) == ["NotAcknowledged", "NotAcknowledged"]
    assert reasons(({**REF, "name": "other"}, conditions())) == ["NotAcknowledged"]


def test_a_parent_that_two_controllers_look_after_needs_both():
    assert reasons((REF, conditions()), (REF, conditions(accepted="False"))) == ["NotAccepted"]


def test_a_gateway_may_leave_out_the_namespace_of_the_route():
    assert reasons(({"name": "public"}, conditions())) == []


def test_a_message_names_route_gateway_listener_and_what_was_said():
    manifest = {
        "metadata": {"generation": 3},
        "spec": {"parentRefs": [SECURE]},
        "status": {"parents": [{"parentRef": SECURE, "conditions": conditions(accepted="False")}]},
    }
    route = LiveObject(kind="HTTPRoute", name="chat-m-1", uid="u", ours=True, owner="", manifest=manifest)
    assert next(complaints(route)).message == "HTTPRoute chat-m-1, Gateway llm/public, listener https: Why: so it is"
