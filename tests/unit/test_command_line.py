"""What the commands say of wrong input: one line, with what to do, and an exit code for programs."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from typer.testing import CliRunner

from servingplan.cli import app
from servingplan.errors import InputError
from servingplan.kube import Kube
from tests.simulated.plans import fixed, model, operator, plan, sized


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def written(folder, spec, **metadata):
    manifest = {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": "chat", **metadata},
        "spec": spec,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return str(path)


@pytest.fixture
def world(tmp_path):
    """Of the plan llm/chat."""
    path = tmp_path / "world.json"
    path.write_text(operator(plan()).cluster.observe().model_dump_json())
    return str(path)


@pytest.mark.parametrize("command", ["plan", "render", "explain"])
@pytest.mark.parametrize("metadata", [{"name": "other"}, {"namespace": "other"}])
def test_a_world_of_another_plan_is_refused(tmp_path, world, command, metadata):
    done = run(command, written(tmp_path, plan(), **metadata), "--world", world)
    assert done.exit_code == 2
    assert "'llm/chat': is the world of another plan than" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("metadata", [{}, {"namespace": "llm"}])
def test_a_world_of_the_plan_is_taken(tmp_path, world, metadata):
    assert run("plan", written(tmp_path, plan(), **metadata), "--world", world).exit_code == 0


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_a_plan_that_serves_nothing_exits_with_3(tmp_path, output):
    done = run("plan", written(tmp_path, plan(budget="1")), "-o", output)
    assert done.exit_code == 3
    assert "error: the plan serves nothing" in done.stderr
    assert output != "json" or json.loads(done.stdout)["fleet"]


def test_a_plan_that_serves_something_exits_with_0(tmp_path):
    assert run("plan", written(tmp_path, plan(model(rate="100"), budget="4"))).exit_code == 0
    assert run("plan", written(tmp_path, plan(pools=[sized(), fixed("a100", gpus=2, maxNodes=1)]))).exit_code == 0


@pytest.mark.parametrize("content", [None, "", "a: [", "just words", "clusters: 7"])
def test_without_a_kubeconfig_a_command_says_so_in_one_line(tmp_path, monkeypatch, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError) as failed:
        Kube.connect()
    assert str(failed.value).startswith(f"KUBECONFIG: '{path}': is no kubeconfig that can be used")
    assert "\n" not in str(failed.value)


def test_the_command_prints_it_and_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "servingplan", "world", "chat"],
        env={"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: KUBECONFIG: ")


def test_the_version_is_printed():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"servingplan {version('servingplan')}\n")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--pod-access", "hostpath", "hostpath: names nothing that can be allowed"),
        ("--namespace-budgets", "llm=much", "NAMESPACE=DOLLARS"),
    ],
)
def test_limits_of_the_installation_that_cannot_be_read_keep_the_operator_from_starting(option, value, words):
    done = run("run", option, value)
    assert done.exit_code != 0
    assert words in done.stderr + str(done.exception)
