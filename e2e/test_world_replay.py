"""What a live turn saw is a file; replayed offline it leads to the same decision, byte for byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.support import plans
from localcluster.nodes import A100
from servingplan.model.fleet import Fleet

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def servingplan(*arguments: str, kubeconfig: Path | None = None) -> bytes:
    """Output of a command."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or "/nonexistent")}
    command = [str(Path(sys.executable).with_name("servingplan")), *arguments]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def decided(fleet):
    """What the solver decides of a fleet: nodes, shapes, copies and rates."""
    shape = ("pool", "model", "variant", "tensor_parallel", "pipeline_parallel", "settings", "replicas", "planned")
    return fleet["nodes"], [{name: item[name] for name in shape} for item in fleet["replica_sets"]]


def test_an_incident_is_a_file_that_replays_to_the_same_decision(scene, witness, operator, tmp_path):
    pools = [scene.rented(A100, price=price, name=name) for name, price in (("east", 20), ("west", 21))]
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], pools, budget=70))
    status = scene.wait_ready()

    world, plan = tmp_path / "world.json", tmp_path / "plan.json"
    # With the operator's own rights.
    own = operator.log.with_suffix(".kubeconfig")
    world.write_bytes(servingplan("world", "chat", "-n", scene.namespace, kubeconfig=own))
    live = scene.plan()
    plan.write_text(json.dumps(live))

    answers = [servingplan("plan", str(plan), "--world", str(world), "-o", "json") for _ in range(2)]
    assert answers[0] == answers[1]
    decision = json.loads(answers[0])
    assert Fleet.model_validate(decision["fleet"]).hash == status["planHash"]
    assert all(not decision[part] for part in ("first", "grow", "routing", "shrink")), "at rest there is nothing to do"

    # From the world alone, without the plan in force, the solver comes to the same fleet. Only what a pod asks for beside GPUs
    # may differ: the first plan was made when no node was there.
    bare = json.loads(world.read_text())
    bare["objects"] = []
    world.write_text(json.dumps(bare))
    fresh = json.loads(servingplan("plan", str(plan), "--world", str(world), "-o", "json"))
    assert decided(fresh["fleet"]) == decided(decision["fleet"])

    # The cluster itself explains its plan, and says which one is in force.
    told = servingplan("explain", "--live", "chat", "-n", scene.namespace, kubeconfig=own).decode()
    assert f"in force: plan {status['planHash']}, " in told
    assert "one more node of east" in told
