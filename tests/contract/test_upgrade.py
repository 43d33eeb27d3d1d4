"""An upgrade of the operator, against a real API server: no Deployment rolls out anew."""

from __future__ import annotations

import kubernetes.config
import pytest

from localcluster.control_plane import ControlPlane
from servingplan.decide.objects import object_actions
from servingplan.kube import DEPLOYMENTS, Kube
from servingplan.model.names import FIELD_MANAGER
from servingplan.model.world import Observation
from servingplan.planning.situation import Situation
from servingplan.render import deployment
from tests.unit.simulation.test_upgrade import WORLD

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def kube():
    with ControlPlane() as up, kubernetes.config.new_client_from_config(str(up.kubeconfig)) as client:
        yield Kube(client)


@pytest.mark.parametrize("renders_otherwise", [False, True])
def test_new_facts_are_written_and_the_template_stands(kube, monkeypatch, renders_otherwise):
    world = Observation.model_validate_json(WORLD.read_text())
    record = Situation(world).record
    standing = []
    for live in world.objects:
        if live.kind == "Deployment":
            manifest = {**live.manifest, "apiVersion": "apps/v1", "kind": "Deployment"}
            kept = {key: manifest["metadata"][key] for key in ("labels", "annotations")}
            manifest["metadata"] = {**kept, "name": live.name, "namespace": "default"}
            manifest["spec"] = {**manifest["spec"], "replicas": 0}
            live = live.model_copy(
                update={"manifest": kube.apply(DEPLOYMENTS, manifest, manager=FIELD_MANAGER, force=True)}
            )
        standing.append(live)
    world = world.model_copy(update={"objects": tuple(standing)})
    fleet = record.fleet.model_copy(
        update={"replica_sets": tuple(item.model_copy(update={"priority": 7}) for item in record.fleet.replica_sets)}
    )
    if renders_otherwise:
        monkeypatch.setattr(deployment, "DRAIN_SLEEP_SECONDS", 77)
    situation = Situation(world)
    actions, errors = object_actions(situation, situation.spec, fleet, {})
    assert errors == ()
    written = [action.manifest for action in actions if action.manifest["kind"] == "Deployment"]
    assert {item["metadata"]["name"] for item in written} == {live.name for live in world.deployments()}
    for manifest in written:
        before = next(live.manifest for live in world.deployments() if live.name == manifest["metadata"]["name"])
        manifest["metadata"] = {**manifest["metadata"], "namespace": "default"}
        del manifest["metadata"]["ownerReferences"]
        after = kube.apply(DEPLOYMENTS, manifest, manager=FIELD_MANAGER, force=True)
        assert after["spec"] == before["spec"]
        assert after["metadata"]["annotations"] != before["metadata"]["annotations"]
