"""`servingplan diff`, `status`, `top`, `approve`, `history` and `explain --live`, against a cluster in memory."""

import json
import tomllib
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.errors import ApiError, InputError, NotFound
from servingplan.kube import Kube
from servingplan.observe.cluster import Reader
from tests.simulated.plans import model, operator, plan, sized
from tests.simulated.rates import steady_rates  # noqa: F401 (a fixture)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def live(monkeypatch):
    """Makes a settled operator and lets the commands reach its cluster."""

    def make(spec=None, *, closed=(), **more):
        driver = operator(spec or plan(), **more)
        for name in closed:
            driver.cluster.pools[name].max_nodes = 0
        driver.settle()
        monkeypatch.setattr(Kube, "connect", classmethod(lambda cls, **_: driver.cluster.api))
        monkeypatch.setitem(Reader.__init__.__kwdefaults__, "clock", lambda: driver.cluster.time)
        return driver

    return make


@pytest.fixture
def waiting(live):
    driver = live(plan(mode="Approve"))
    driver.cluster.approved = driver.cluster.status["proposed"]["hash"]
    driver.settle()
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    return driver


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, [*arguments, "-n", "llm"])


def edited(tmp_path, spec, name="chat", **metadata):
    path = tmp_path / "plan.yaml"
    manifest = {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    path.write_text(yaml.safe_dump(manifest))
    return str(path)


# --- diff -----------------------------------------------------------------------------------------------------------------


def test_diff_says_what_applying_an_edited_plan_would_change_and_writes_nothing(live, tmp_path):
    driver = live()
    before = (driver.cluster.generation, driver.cluster.status, dict(driver.cluster.objects))
    path = edited(tmp_path, plan(model(rate="20")))
    done = run("diff", path, "--live", "chat")
    assert done.exit_code == 0, done.output
    assert f"instead of {driver.cluster.status['planHash']}: 4.00 to 8.00 $/h" in done.stdout
    assert "NodePool/l40s" in done.stdout
    assert "1. l40s grows from 2 to 4 nodes" in done.stdout
    data = json.loads(run("diff", path, "--live", "chat", "-o", "json").stdout)
    assert (data["version"], data["plan"], data["mode"]) == (1, "llm/chat", "Auto")
    assert (data["dollars_per_hour_before"], data["dollars_per_hour_after"]) == (4.0, 8.0)
    assert data["classes"] == [{"model": "llama-3.1-8b", "name": "chat", "before": 10.0, "after": 20.0}]
    assert data["transition"]["reaches"]
    assert before == (driver.cluster.generation, driver.cluster.status, dict(driver.cluster.objects))
    driver.cluster.edit(plan(model(rate="20")))
    driver.settle()
    assert driver.cluster.status["planHash"] == data["hash"]


def test_diff_reads_the_pools_that_only_the_edited_plan_has(live, tmp_path):
    driver = live()
    driver.cluster.add_pool("h100", {"pool": "h100"}, 4)
    path = edited(tmp_path, plan(pools=[sized("h100", gpus=4, price="3")]))
    data = json.loads(run("diff", path, "--live", "chat", "-o", "json").stdout)
    assert {"NodePool/h100", "NodePool/l40s"} <= set(data["changed"])
    assert data["transition"]["steps"][0]["grow"] == [{"pool": "h100", "before": 0, "nodes": 1}]


def test_diff_of_the_plan_as_it_is_changes_nothing(live, tmp_path):
    driver = live()
    done = run("diff", edited(tmp_path, plan()), "--live", "chat")
    assert (done.exit_code, done.stdout) == (
        0,
        f"plan {driver.cluster.status['planHash']} stays in force: nothing would change\n",
    )


@pytest.mark.parametrize(
    ("spec", "code", "told"),
    [
        (plan(model("nobody")), 2, "UnknownModel"),
        (plan(budget="much"), 2, "spec.budget"),
        (plan(pools=[sized(minNodes=6)], budget="5"), 3, "Infeasible"),
    ],
)
def test_diff_of_a_plan_that_cannot_be_had_leaves_with_the_code_of_the_interface(live, tmp_path, spec, code, told):
    live()
    done = run("diff", edited(tmp_path, spec), "--live", "chat")
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr


def test_diff_of_another_plan_is_refused(live, tmp_path):
    live()
    for path in (edited(tmp_path, plan(), name="other"), edited(tmp_path, plan(), namespace="elsewhere")):
        done = run("diff", path, "--live", "chat")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "give the edited manifest of that plan" in done.stderr


# --- approve --------------------------------------------------------------------------------------------------------------


def test_approve_shows_what_waits_and_writes_its_hash(waiting):
    proposed = waiting.cluster.status["proposed"]
    done = run("approve", "chat")
    assert done.exit_code == 0, done.output
    assert "4.00 to 8.00 $/h" in done.stdout
    assert "1. l40s grows from 2 to 4 nodes" in done.stdout
    assert done.stdout.endswith(f"approved plan {proposed['hash']}\n")
    waiting.settle()
    assert waiting.cluster.status["planHash"] == proposed["hash"]
    assert run("approve", "chat").exit_code == 2


def test_approve_with_a_hash_writes_only_if_that_is_what_waits(waiting):
    in_force, proposed = waiting.cluster.approved, waiting.cluster.status["proposed"]["hash"]
    done = run("approve", "chat", "--hash", "0bad0bad")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"is not the hash of the waiting plan, which is {proposed}" in done.stderr
    assert waiting.cluster.approved == in_force
    done = run("approve", "chat", "--hash", proposed, "-o", "json")
    assert json.loads(done.stdout) == {"version": 1, "plan": "llm/chat", "approved": proposed}
    assert waiting.cluster.approved == proposed


def test_approve_waits_for_the_operator_to_look_at_the_last_edit(waiting):
    waiting.cluster.edit(plan(model(rate="40"), mode="Approve"))
    done = run("approve", "chat")
    assert done.exit_code == 2
    assert "has not read the last edit" in done.stderr


def test_approve_of_a_preview_is_refused(live):
    driver = live(plan(mode="Preview"))
    done = run("approve", "chat")
    assert done.exit_code == 2
    assert "plans are only shown, not approved" in done.stderr
    assert driver.cluster.approved is None


# --- status, top, history -------------------------------------------------------------------------------------------------


def test_status_is_the_plan_as_a_table_with_what_is_ready(live):
    driver = live()
    driver.cluster.lose_node("l40s-1")
    driver.act()
    done = run("status", "chat")
    assert done.exit_code == 0, done.output
    status = driver.cluster.status
    assert f"plan llm/chat: {status['planHash']}, mode Auto" in done.stdout
    assert "not ready, Scaling: NodePoolsReady" in done.stdout
    assert "spend 4.00 $/h, plan 4.00 $/h, budget 20.00 $/h" in done.stdout
    assert f"step 1 of 2, waiting since {driver.cluster.time} for nodes of l40s: 1" in done.stdout
    assert " 1/2 " in done.stdout
    assert json.loads(run("status", "chat", "-o", "json").stdout)["status"] == status


def test_status_names_the_plan_that_waits_and_how_to_approve_it(waiting):
    done = run("status", "chat")
    waits = waiting.cluster.status["proposed"]["hash"]
    assert f"plan {waits} waits: 4.00 to 8.00 $/h; servingplan approve chat -n llm" in done.stdout


def test_status_of_a_plan_that_nobody_has_looked_at_says_so(live):
    driver = live()
    for nothing in ({}, {"observedGeneration": -1}):  # the latter is what the API server fills in
        driver.cluster.status = nothing
        assert run("status", "chat").stdout == (
            "no operator has read this plan yet; servingplan doctor -n llm says whether one manages its namespace\n"
        )
    assert run("top", "chat", "--once").exit_code == 0
    assert run("history", "chat").stdout == "no plan was taken into force yet\n"


def test_status_of_a_plan_whose_deletion_waits_for_an_operator_says_what_to_do(live):
    driver = live()
    driver.cluster.deleting_since = driver.cluster.time
    told = run("status", "chat").stdout
    assert "waits for its operator" in told
    assert "where no operator runs: servingplan uninstall -n llm does its work" in told
    assert "last edit" not in told


def test_top_once_has_rates_dollars_and_what_is_in_time(live):
    driver = live()
    done = run("top", "chat", "--once")
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.stdout.splitlines() if "llama-3.1-8b" in line]
    assert row.split() == ["llama-3.1-8b", "chat", "10", "10", "-", "10", "yes"]
    driver.cluster.lose_node("l40s-1")
    driver.act()
    data = json.loads(run("top", "chat", "--once", "-o", "json").stdout)
    (entry,) = data["classes"]
    assert (entry["planned_requests_per_second"], entry["in_time"]) == ("10", False)
    assert float(entry["served_requests_per_second"]) == pytest.approx(5, abs=1)
    assert data["dollars_per_hour"] == {"spend": "4.00", "plan": "4.00", "budget": "20.00"}


def test_what_engines_measured_stands_beside_what_was_predicted(live):
    driver = live()
    assert "Observed" not in run("status", "chat").stdout
    (item,) = driver.cluster.status["deployments"]
    item["learned"] = {
        "at": driver.cluster.time,
        "requestsPerSecond": "4.1",
        "ttftSeconds": {"observed": "0.151", "predicted": "0.149"},
        "rateFactor": "0.667",
        "ttftFactor": "1.49",
        "tpotFactor": "1.5",
        "refused": "19 requests ended",
    }
    for done in (run("status", "chat"), run("top", "chat", "--once")):
        shown = " ".join(done.stdout.split())
        assert "0.151 (0.149) - 0.667 1.49 1.5 19 requests ended" in shown
    data = json.loads(run("top", "chat", "--once", "-o", "json").stdout)
    assert data["observed"] == {item["name"]: item["learned"]}


def test_top_as_json_needs_once(live):
    live()
    done = run("top", "chat", "-o", "json")
    assert done.exit_code == 2
    assert "needs --once" in done.stderr


def test_history_is_newest_first_with_reasons(live):
    driver = live()
    driver.cluster.edit(plan(model(rate="20")))
    driver.settle()
    rows = [line.split() for line in run("history", "chat").stdout.splitlines() if line.strip().startswith("2026")]
    assert [row[2] for row in rows] == ["SpecChanged", "FirstPlan"]
    data = json.loads(run("history", "chat", "-o", "json").stdout)
    assert data["history"] == driver.cluster.status["history"]


def test_explain_live_has_the_steps_and_what_waits(waiting):
    done = run("explain", "--live", "chat", "-o", "json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["transition"] is None
    assert data["proposal"]["hash"] == waiting.cluster.status["proposed"]["hash"]
    waiting.cluster.lose_node("l40s-1")
    waiting.act()
    text = run("explain", "--live", "chat").stdout
    assert "1. l40s grows from 1 to 2 nodes" in text
    assert "1. l40s grows from 1 to 4 nodes" in text
    assert "4.00 to 8.00 $/h" in text


@pytest.mark.parametrize(
    ("change", "price", "why"),
    [
        ({"minLifetime": "0s", "minGain": "0.1"}, "7.6", "it gains 5 %, less than spec.change.minGain (10 %)"),
        ({"minLifetime": "30m"}, "2", "spec.change.minLifetime keeps the plan in force for "),
    ],
)
def test_explain_says_what_holds_back_a_cheaper_plan(live, change, price, why):
    pools = [sized(price="4"), sized("a100", price=price)]
    driver = live(plan(model(), pools=pools, change=change), closed=("a100",))
    assert json.loads(run("explain", "--live", "chat", "-o", "json").stdout)["kept"] is None
    driver.cluster.pools["a100"].max_nodes = None
    driver.act()
    assert why in json.loads(run("explain", "--live", "chat", "-o", "json").stdout)["kept"]
    text = " ".join(run("explain", "--live", "chat").stdout.split())
    assert f"the best plan does not replace it yet: {why}" in text


def test_explain_names_the_pages_of_what_is_amiss(live, tmp_path):
    driver = live()
    assert json.loads(run("explain", "--live", "chat", "-o", "json").stdout)["pages"] == {}
    driver.cluster.pools["l40s"].allowed = ()
    driver.act()
    assert driver.conditions()["NodePoolsReady"] == "NotAllowed"
    assert "NotAllowed: docs/reasons/NotAllowed.md" in run("explain", "--live", "chat").stdout
    told = run("explain", "--live", "chat", "-o", "json", "--site", "https://docs.example")
    assert json.loads(told.stdout)["pages"]["NotAllowed"] == "https://docs.example/reasons/NotAllowed/"

    had = typer.testing.CliRunner().invoke(app, ["explain", edited(tmp_path, plan())])
    assert (had.exit_code, "docs/reasons/" in had.stdout) == (0, False)
    spec = plan(pools=[sized(minNodes=6)], budget="5")
    excluded = typer.testing.CliRunner().invoke(app, ["explain", edited(tmp_path, spec)])
    assert (excluded.exit_code, "Infeasible: docs/reasons/Infeasible.md" in excluded.stdout) == (3, True)


def test_plan_prints_the_steps(tmp_path):
    done = typer.testing.CliRunner().invoke(app, ["plan", edited(tmp_path, plan())])
    assert "Steps from a cluster where nothing of the plan runs" in done.stdout
    assert "1. l40s grows from 0 to 2 nodes: then 4.00 $/h" in done.stdout
    data = json.loads(typer.testing.CliRunner().invoke(app, ["plan", edited(tmp_path, plan()), "-o", "json"]).stdout)
    assert [step["dollars_per_hour"] for step in data["transition"]["steps"]] == [4.0, 4.0]


def test_uninstall_check_only_says_that_plans_are_left(live, monkeypatch):
    driver = live()
    monkeypatch.setenv("SERVINGPLAN_REFUSED", "Nothing was removed.")
    before = driver.cluster.status
    done = run("uninstall", "--check")
    assert done.exit_code == 3
    for words in ("plans are left: llm/chat", "servingplan uninstall -n llm\n", "Nothing was removed."):
        assert words in done.stderr
    assert driver.cluster.status == before
    elsewhere = typer.testing.CliRunner().invoke(app, ["uninstall", "--check", "-n", "other"])
    assert (elsewhere.exit_code, "There is no plan in other" in elsewhere.stdout) == (0, True)


# --- errors ---------------------------------------------------------------------------------------------------------------

COMMANDS = [("status", "none"), ("top", "none", "--once"), ("approve", "none"), ("history", "none")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_that_is_not_there_is_told_in_one_line(live, command):
    live()
    done = run(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: there is no plan none in namespace llm; list them with kubectl get lsp -A\n"


def test_diff_of_a_plan_that_is_not_there_is_told_in_one_line(live, tmp_path):
    live()
    done = run("diff", edited(tmp_path, plan(), name="none"), "--live", "none")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: there is no plan none in namespace llm; list them with kubectl get lsp -A\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_without_the_definition_of_plans_is_told_in_one_line(live, command, monkeypatch):
    driver = live()

    def unknown(api_version, kind):
        raise NotFound(404, "NotFound", f"no {kind} in {api_version}")

    monkeypatch.setattr(driver.cluster.api, "discover", unknown)
    done = run(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the cluster does not know the kind LLMServingPlan; install the chart, or its CRD: docs/install.md\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_api_server_that_refuses_is_told_in_one_line(live, command):
    driver = live()
    driver.cluster.api.refuses = lambda verb, key: ApiError(403, "Forbidden", "not yours")
    done = run(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the plan llm/none cannot be read: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_kubeconfig_the_error_is_one_line(tmp_path, monkeypatch, command):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = run(*command)
    assert isinstance(done.exception, InputError)  # `main` prints it and leaves with 2
    assert "\n" not in str(done.exception)


def test_the_command_is_a_plugin_of_kubectl_too():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-servingplan"] == scripts["servingplan"]
    template = yaml.safe_load((REPOSITORY / "krew/servingplan.yaml").read_text())
    assert template["metadata"]["name"] == "servingplan"  # krew makes `kubectl servingplan` of it
    (platform,) = template["spec"]["platforms"]
    assert platform["bin"] in scripts
    assert platform["bin"] in [item["from"] for item in platform["files"]]
