"""The gateways of ``examples/gateway``: any two of them, of any two plans, stand side by side in a namespace."""

import subprocess
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import yaml

from servingplan.doctor.facts import Facts, PlanFacts
from servingplan.doctor.judge import judge

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ("envoy.yaml", "envoy-mounted.yaml")


def of_plan(file, plan):
    """The example's objects for a plan, as the file says to make them."""
    path = REPOSITORY / "examples/gateway" / file
    done = subprocess.run(["sed", f"s/chat/{plan}/g", str(path)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def config_maps(objects):
    """The ConfigMaps that pods of the example mount or follow."""
    found = set()
    for pod in [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"]:
        found |= {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
        words = [word for container in pod.get("initContainers", ()) for word in container.get("args", ())]
        found |= {after for word, after in pairwise(words) if word == "--config-map"}
    return found


ALL = {(file, plan): of_plan(file, plan) for file in FILES for plan in ("chat", "search")}


@pytest.mark.parametrize(("one", "other"), list(combinations(ALL, 2)))
def test_no_two_gateways_share_an_object_or_pods(one, other):
    def names(objects):
        return {(item["kind"], item["metadata"]["name"]) for item in objects}

    def labels(objects):
        return {str(item["spec"]["selector"]["matchLabels"]) for item in objects if item["kind"] == "Deployment"}

    assert not names(ALL[one]) & names(ALL[other])
    assert not labels(ALL[one]) & labels(ALL[other])


@pytest.mark.parametrize("file", FILES)
def test_a_gateway_has_the_name_of_its_plan_and_follows_its_weights(file):
    objects = ALL[file, "search"]
    assert all(item["metadata"]["name"].startswith("search-gateway") for item in objects)
    assert config_maps(objects) == {"search-routing"}
    for service in [item for item in objects if item["kind"] == "Service"]:
        (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
        assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("routing", ["search-routing", "weights"])
def test_the_doctor_names_a_gateway_that_follows_the_plan(routing):
    plans = (PlanFacts("llm", "search", routing, False),)
    facts = Facts(namespace="llm", account=None, groups={}, plans=plans)
    (fix,) = [item.fix for item in judge(facts) if item.check == "gateway" and "no pod of llm" in item.message]
    made, _, applied = fix.rpartition(" | ")
    assert applied == "kubectl apply -n llm -f -"
    done = subprocess.run(made, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    objects = list(yaml.safe_load_all(done.stdout))
    assert config_maps(objects) == {routing}
    (role,) = [item for item in objects if item["kind"] == "Role"]
    assert routing in role["rules"][0]["resourceNames"]
