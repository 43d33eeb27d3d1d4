"""What a ConfigMap has no room for."""

import json

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.names import ROUTING_KEY
from servingplan.model.world import PlanObject
from servingplan.routing.document import LARGEST_BYTES, bytes_of, routing_config_map, routing_document

PLAN = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})


def config_map(models, classes, services):
    """Of so many models, each with as many classes and Services behind each."""
    names = [f"class-{index}" for index in range(classes)]
    spec = PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": "1"},
            "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
            "models": [
                {
                    "name": f"model-{index}",
                    "classes": [
                        {"name": name, "inputTokens": 100 + at, "outputTokens": 10, "requestsPerSecond": "1"}
                        for at, name in enumerate(names)
                    ],
                }
                for index in range(models)
            ],
        }
    )
    facts = {
        f"chat-model-{index}-{copy:06d}": ReplicaFacts(
            model=f"model-{index}",
            pool="p",
            gpus=1,
            priority=0,
            planned=dict.fromkeys(names, 1.0),
            capacity=dict.fromkeys(names, 9.0),
        )
        for index in range(models)
        for copy in range(services)
    }
    document = routing_document(
        plan=PLAN, spec=spec, fleet=Fleet(), facts=facts, ready=dict.fromkeys(facts, 1), previous=None
    )
    return routing_config_map(PLAN, spec, document)


def test_a_document_whose_renderings_have_no_room_is_published_alone():
    data = config_map(64, 4, 4)["data"]
    assert set(data) == {ROUTING_KEY}
    assert bytes_of(data) <= LARGEST_BYTES
    assert len(json.loads(data[ROUTING_KEY])["models"]) == 64


def test_a_document_with_room_is_published_with_its_renderings():
    assert "envoy-rds.yaml" in config_map(4, 4, 2)["data"]
