"""What the commands say of wrong input: one line, with what to do, and an exit code for programs."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
import yaml
from typer.testing import CliRunner

from servingplan.api.v1alpha1 import Method
from servingplan.cli import app, main
from servingplan.cli.files import documents_of
from servingplan.errors import InputError
from servingplan.kube import Kube
from servingplan.model.answer import METHOD_NAMES
from tests.simulated.plans import fixed, model, operator, plan, sized

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments):
    return CliRunner().invoke(app, [str(it) for it in arguments])


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
    assert str(failed.value).startswith(f"KUBECONFIG: '{path}': is not a usable kubeconfig")
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


def test_an_operator_that_is_started_by_hand_takes_the_lease_too(monkeypatch):
    """Else it and the operator of the chart would act on the same plans."""
    seen = []
    monkeypatch.setattr(Kube, "connect", classmethod(lambda cls, **_: None))
    monkeypatch.setattr("servingplan.handlers.plan.run", lambda settings, turns_of: seen.append(settings))
    assert run("run", "--namespaces", "llm").exit_code == 0
    assert run("run", "--lease-namespace", "").exit_code == 0
    assert [settings.lease_namespace for settings in seen] == ["kube-system", ""]


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"slo": {"tpotSeconds": "50"}}, "tpotSeconds: '50': is 50, above 5 s; give seconds, not milliseconds"),
        (
            {"slo": {"ttftSeconds": "5000"}},
            "ttftSeconds: '5000': is 5000, above 3600 s; give seconds, not milliseconds",
        ),
    ],
)
def test_limits_in_milliseconds_are_refused(tmp_path, change, told):
    manifest = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    manifest["spec"]["models"][0]["classes"][0] |= change
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    assert told in run("plan", tmp_path / "plan.yaml").stderr


def test_a_method_that_is_unknown_is_a_fault_of_its_field(tmp_path):
    manifest = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    manifest["spec"]["solver"] = {"method": "foo"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    assert "spec.solver.method: 'foo'" in run("plan", tmp_path / "plan.yaml").stderr
    assert get_args(Method) == ("Auto", *METHOD_NAMES)


def test_the_name_of_a_plan_is_checked_as_the_api_server_does(tmp_path):
    manifest = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    manifest["metadata"]["name"] = "My_Plan"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    assert "metadata.name: 'My_Plan': must be of lower case letters" in run("plan", tmp_path / "plan.yaml").stderr


def test_a_context_that_no_number_of_nodes_gives_is_not_sought_over_nodes(tmp_path):
    manifest = yaml.safe_load((REPOSITORY / "examples/chat.yaml").read_text())
    manifest["spec"]["models"] = manifest["spec"]["models"][1:]
    manifest["spec"]["models"][0]["maxModelLen"] = 1_000_000
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(manifest))
    told = run("plan", tmp_path / "plan.yaml")
    assert "asked are 1000000" in " ".join((told.stdout + told.stderr).split())
    assert "would fit over" not in " ".join((told.stdout + told.stderr).split())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    routing = REPOSITORY / "tests/golden/routing/routing.json"
    told = run("gateway-files", routing, "--gateway", "nginx", "--directory", tmp_path / "none")
    assert told.exit_code == 2
    assert "cannot be written to" in told.stderr


def test_a_key_that_is_there_twice_is_refused_by_name(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "apiVersion: servingplan.dev/v1alpha1\nkind: LLMServingPlan\nmetadata: {name: chat}\nspec:\n"
        "  budget: {dollarsPerHour: 10}\n  models:\n  - name: a\n    slo: {}\n    slo: {percentile: 90}\n"
    )
    for command in ("plan", "render", "explain"):
        done = run(command, path)
        assert done.exit_code == 2
        assert done.stderr == f"error: {path}: spec.models[0].slo: is given twice, in lines 8 and 9; keep one\n"


def test_equal_keys_of_different_mappings_and_merged_keys_are_no_mistake():
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, a: 3}\nlist: [{a: 1}, {a: 2}]\n---\na: 1\n"
    assert list(documents_of(text)) == [
        {"base": {"a": 1, "b": 2}, "more": {"a": 3, "b": 2}, "list": [{"a": 1}, {"a": 2}]},
        {"a": 1},
    ]


COMMANDS = [
    ("plan",),
    ("solve",),
    ("emulate",),
    ("classes", "fit"),
    ("profile", "lookup"),
    ("profile", "table"),
    ("profile", "measure"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_that_is_piped_cuts_no_name(command, monkeypatch, capsys):
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "MAX_WIDTH", None)
    monkeypatch.setattr(sys, "argv", ["servingplan", *command, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0)
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert "…" not in shown
