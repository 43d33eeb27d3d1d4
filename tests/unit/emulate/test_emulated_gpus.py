"""Emulated GPUs: which nodes get them, and how they are taken away."""

import pytest
from typer.testing import CliRunner

from servingplan.cli import app
from servingplan.kube import Kube


def node(name, *, gpus=None, taint=None):
    taints = [{"key": "dedicated", "effect": taint}] if taint else []
    return {
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "4", **(gpus or {})}},
    }


class Nodes:
    """An API server that holds nodes."""

    def __init__(self, *items):
        self.items, self.written = items, {}

    def list(self, resource):
        assert resource.kind == "Node"
        return iter(self.items)

    def merge(self, resource, name, change, *, manager, subresource):
        assert (resource.kind, subresource) == ("Node", "status")
        assert change["status"]["capacity"] == change["status"]["allocatable"]
        self.written[name] = change["status"]["allocatable"]


@pytest.fixture
def run(monkeypatch):
    def emulate_gpus(api, *arguments):
        monkeypatch.setattr(Kube, "connect", lambda: api)
        return CliRunner().invoke(app, ["emulate-gpus", *arguments])

    return emulate_gpus


def test_nodes_that_run_ordinary_pods_and_have_no_gpus_get_them(run):
    api = Nodes(
        node("plain"),
        node("soft", taint="PreferNoSchedule"),
        node("real", gpus={"nvidia.com/gpu": "8"}),
        node("sliced", gpus={"nvidia.com/mig-1g.10gb": "7"}),
        node("emulated", gpus={"nvidia.com/gpu.emulated": "2"}),
        node("control", taint="NoSchedule"),
    )
    done = run(api, "--count", "3")
    assert done.exit_code == 0, done.output
    assert api.written == {name: {"nvidia.com/gpu.emulated": "3"} for name in ("plain", "soft", "emulated")}
    assert "control: left out, it has the taint dedicated" in done.output
    assert "sliced: left out, it has nvidia.com/mig-1g.10gb" in done.output


def test_none_takes_them_away(run):
    api = Nodes(node("plain", gpus={"nvidia.com/gpu.emulated": "2"}))
    assert run(api, "--count", "0").exit_code == 0
    assert api.written == {"plain": {"nvidia.com/gpu.emulated": None}}


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "example.com/cores"])
def test_a_resource_that_means_something_else_is_refused(run, resource):
    api = Nodes(node("plain"))
    assert run(api, "--resource", resource).exit_code == 2
    assert api.written == {}


def test_it_is_an_error_if_no_node_can_have_them(run):
    done = run(Nodes(node("control", taint="NoExecute")))
    assert (done.exit_code, "no node can have emulated GPUs" in done.output + done.stderr) == (2, True)
