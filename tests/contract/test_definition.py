"""The operator where the API server does not know plans: before their definition is applied, and once it is gone."""

import urllib.error
import urllib.request

import kubernetes.config
import pytest

from e2e.support.waiting import wait_for
from localcluster.control_plane import ControlPlane
from localcluster.operator_process import OperatorProcess
from localcluster.ports import free_ports
from servingplan.kube import PLANS, Kube
from tests.contract.test_pool_kinds import PLAN_DEFINITION
from tests.simulated.plans import fixed, plan

pytestmark = pytest.mark.cluster
NAME = "llmservingplans.servingplan.dev"


def readiness(port):
    """Status and words of the readiness probe."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_it_waits_for_the_definition_and_says_why_it_ends_once_it_is_gone(tmp_path):
    log = tmp_path / "operator.log"
    (port,) = free_ports(1)
    probe = ("--liveness-address", f"127.0.0.1:{port}")
    with ControlPlane() as plane, OperatorProcess(plane, log=log, arguments=probe) as operator:
        # The operator is given its chart's rights first, so the definition is there for a moment.
        plane.kubectl("delete", "crd", NAME)
        operator.__exit__()
        log.write_text("")
        operator.start()
        wait_for("it says so", lambda: "knows no LLMServingPlan;" in log.read_text(), seconds=60)
        code, words = readiness(port)
        assert code == 503
        assert "knows no LLMServingPlan" in words

        plane.install_crds([PLAN_DEFINITION])
        with kubernetes.config.new_client_from_config(str(plane.kubeconfig)) as client:
            api = Kube(client)
            metadata = {"name": "chat", "namespace": "default"}
            api.create(
                PLANS,
                {
                    "apiVersion": PLANS.api_version,
                    "kind": PLANS.kind,
                    "metadata": metadata,
                    "spec": plan(pools=[fixed()]),
                },
                namespace="default",
            )
            wait_for("it is ready", lambda: readiness(port)[0] == 200, seconds=60, shown=log.read_text)
            wait_for(
                "it looks after a plan",
                lambda: api.get(PLANS, "chat", namespace="default")["status"].get("conditions"),
                seconds=60,
                shown=log.read_text,
            )
        plane.kubectl("delete", "crd", NAME, "--wait=false")
        wait_for("it ends", lambda: operator.process.poll() is not None, seconds=90, shown=log.read_text)
        assert operator.process.returncode == 1
        assert "knows no LLMServingPlan any more" in log.read_text().splitlines()[-1]
