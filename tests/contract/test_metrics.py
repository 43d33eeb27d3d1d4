"""The operator's metrics, the rules and the dashboard, as Prometheus and its own tool take them."""

import json
import math
import subprocess
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from e2e.support.waiting import wait_for
from localcluster import grafana, prometheus
from servingplan.emulate.exposition import registry
from servingplan.metrics import families
from servingplan.metrics.exporter import Exporter
from servingplan.metrics.samples import samples, trigger
from servingplan.model.actions import ClaimPool
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import FailedShape, LearnedKind, LearnedLook
from servingplan.model.outcome import Outcome
from servingplan.planning.situation import Situation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.status.conclude import conclude
from tests.simulated.driver import Driver, exact
from tests.simulated.plans import operator, plan
from tests.simulated.rates import steady_rates  # noqa: F401 (a fixture for all tests here)
from tests.unit.simulation.test_demand import MEASURED, Traffic

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "charts" / "servingplan" / "files"
RULES, DASHBOARD = FILES / "rules.yaml", json.loads((FILES / "dashboard.json").read_text())
MODEL = "llama-3.1-8b"


@pytest.fixture(scope="module")
def promtool():
    try:
        return prometheus.promtool()
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exporter():
    """Of an operator whose one plan is at rest, with demand that is measured; a kind of replica did not start."""
    found = Exporter()
    metrics = found.plan("llm", "chat")
    driver = operator(plan(**MEASURED))
    questions = []

    def solve(question, spec, at_most_seconds=None, **_):
        questions.append((question, spec))
        return exact(question, spec)

    driver = Driver(driver.cluster, solve=metrics.timed(solve))
    driver.cluster.demand = Traffic(10.0).seen
    first = driver.cluster.observe()
    driver.settle()
    metrics.solved(trigger(Situation(first), driver.decision))
    world = driver.cluster.observe()
    with metrics.turn():
        shape = FailedShape(generation=1, pool="l40s", until="2026-01-01T01:00:00Z")
        look = LearnedLook(
            replicas=1,
            requests_per_second=5.0,
            input_tokens=500,
            output_tokens=250,
            ttft_seconds=0.2,
            tpot_seconds=0.03,
            profile_ttft_seconds=0.1,
            profile_tpot_seconds=0.02,
        )
        learned = dict.fromkeys(driver.deployments(), LearnedKind(at=world.now, look=look))
        decision = driver.decision.model_copy(update={"failed_shapes": {"chat-other": shape}, "learned": learned})
        conditions = conclude(Situation(world), decision, Outcome()).conditions
        metrics.tell(samples(Situation(world), decision, Outcome(), conditions), inventory_was_read=True)
        metrics.wrote(Outcome(done=(ClaimPool(why="", pool="l40s", claimed_by="llm/chat"),)))
        metrics.posted("Normal", "PlanSolved")
    return found, metrics, lambda: metrics.timed(exact)(*questions[0])


class Emulated:
    """vLLM's metrics of an engine that is given a request every 50 ms, in its own quick time."""

    def __init__(self):
        pace = Pace(
            model=find_model(MODEL),
            precision="bf16",
            gpu=find_gpu("H100-SXM-80GB"),
            settings=EngineSettings(max_model_len=2048),
        )
        self.engine = Engine(pace, max_num_seqs=32, max_num_batched_tokens=2048)
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._counted = registry(self.engine, MODEL)
        page = CollectorRegistry()
        page.register(self)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._server, _ = start_http_server(0, "127.0.0.1", page)
        self._thread.start()

    @property
    def target(self):
        return f"127.0.0.1:{self._server.server_port}"

    def collect(self):
        """Between two requests."""
        with self._lock:
            return list(self._counted.collect())

    def _serve(self):
        now = 0.0
        while not self._ended.wait(0.05):
            with self._lock:
                self.engine.admit(200, 20, now)
                now += 10.0
                self.engine.advance(now)

    def close(self):
        self._ended.set()
        self._thread.join()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def server(promtool, exporter, tmp_path_factory):
    """Prometheus with our rules, scraping the operator's page and an engine's, as the chart's monitors would."""
    served, _ = start_http_server(0, "127.0.0.1", exporter[0].registry)
    engine = Emulated()
    running = prometheus.PrometheusProcess(
        tmp_path_factory.mktemp("prometheus"),
        {"operator": f"127.0.0.1:{served.server_port}", "engines": engine.target},
        labels={"operator": {"namespace": "servingplan-system"}, "engines": {"plan_namespace": "llm", "plan": "chat"}},
        rules=[RULES],
    )
    with running:
        wait_for("the page is scraped", lambda: running.rows("servingplan_solve_seconds_count"), seconds=30)
        exporter[2]()  # a solve between two scrapes
        wait_for(
            "the rules have results", lambda: running.rows("servingplan:ttft_attained:ratio_rate5m > 0"), seconds=30
        )
        yield running
    engine.close()
    served.shutdown()
    served.server_close()


def asked(text):
    """An expression as Grafana would send it."""
    for name, value in (("plan_namespace", "llm"), ("plan", "chat"), ("model", ".*")):
        text = text.replace(f'${name}"', f'{value}"')
    assert "$" not in text
    return text


EXPRESSIONS = [
    (f"{panel['title']} {target['refId']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


def tool(promtool, *arguments, **more):
    done = subprocess.run([str(promtool), *arguments], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_promtool_takes_the_rules(promtool):
    tool(promtool, "check", "rules", str(RULES))


def test_alerts_fire_on_what_they_are_for_and_on_nothing_else(promtool):
    tool(promtool, "test", "rules", str(Path(__file__).parent / "rules" / "alerts.yaml"))


def test_promtool_finds_nothing_to_complain_about_in_the_page(promtool, exporter):
    ours = [line for line in generate_latest(exporter[0].registry).decode().splitlines() if "servingplan_" in line]
    tool(promtool, "check", "metrics", input="\n".join(ours) + "\n")


def found(server, query):
    """The rows of a query; for a moment there are none where a busy machine kept Prometheus from a scrape."""
    return wait_for(query, lambda: server.rows(query), seconds=20)


def test_every_family_of_the_page_has_samples_in_prometheus(server):
    for family in families.FAMILIES:
        name = f"{family.name}_bucket" if family.kind == "histogram" else family.name
        rows = found(server, name)
        extra = {"le"} if family.kind == "histogram" else set()
        wanted = {"__name__", "job", "instance", "namespace", *families.PLAN_LABELS, *family.labels, *extra}
        assert set(rows[0]["metric"]) == wanted


@pytest.mark.parametrize("name", [name for name, _ in EXPRESSIONS])
def test_every_expression_of_the_dashboard_finds_data(server, name):
    query = asked(dict(EXPRESSIONS)[name])

    def numbers():
        rows = server.rows(query)
        return rows and all(math.isfinite(float(row["value"][1])) for row in rows)

    wait_for(query, numbers, seconds=20)


@pytest.mark.parametrize("item", DASHBOARD["templating"]["list"][1:], ids=lambda item: item["name"])
def test_the_variables_of_the_dashboard_find_something_to_choose_from(server, item):
    selector, label = item["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    assert [row["metric"][label] for row in found(server, f"group by ({label}) ({asked(selector)})")]


def test_a_move_is_annotated(server, exporter):
    _, metrics, _ = exporter
    marks = next(item for item in DASHBOARD["annotations"]["list"] if item["name"] == "Plan changes")
    assert server.rows(asked(marks["expr"])) == []
    before = {key: value for key, value in metrics.values().items() if key[0].kind == "gauge"}
    moved = before[families.PLAN_ADOPTED, ()] + 600
    metrics.tell({**before, (families.PLAN_ADOPTED, ()): moved}, inventory_was_read=True)
    assert found(server, asked(marks["expr"]))


def test_the_observed_share_lies_between_its_two_bounds(server):
    def bounds():
        rows = server.rows("servingplan:ttft_attained:ratio_rate5m")
        return {row["metric"]["bound"]: float(row["value"][1]) for row in rows}

    def lies_between():
        seen = bounds()
        return len(seen) == 2 and 0 <= seen["at_least"] <= seen["at_most"] <= 1

    wait_for("a share between two bounds", lies_between, seconds=20, shown=bounds)


@pytest.fixture(scope="module")
def shown(server, tmp_path_factory):
    """A Grafana that was given the chart's dashboard as a file."""
    try:
        running = grafana.GrafanaProcess(
            tmp_path_factory.mktemp("grafana"), [FILES / "dashboard.json"], prometheus_url=server.url
        )
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))
    with running:
        yield running


def test_grafana_loads_the_dashboard(shown):
    (found,) = shown.get("/api/search?type=dash-db")
    assert (found["uid"], found["title"]) == (DASHBOARD["uid"], DASHBOARD["title"])
    loaded = shown.get(f"/api/dashboards/uid/{DASHBOARD['uid']}")["dashboard"]
    assert {key: loaded[key] for key in DASHBOARD if key != "version"} == {
        key: value for key, value in DASHBOARD.items() if key != "version"
    }
    assert [line for line in shown.words().splitlines() if "level=error" in line and "dashboard" in line.lower()] == []


def test_grafana_finds_data_for_every_panel(shown):
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    assert [target["expr"] for target in targets if not shown.rows_of({**target, "expr": asked(target["expr"])})] == []


def test_the_series_of_a_plan_that_is_gone_end(server, exporter):
    """Last in the file: the plan is not taken up again."""
    page, metrics, _ = exporter
    page.forget("llm", "chat", metrics)
    assert found(server, 'servingplan_build_info unless on() {plan="chat", job="operator"}'), (
        "the rest of the page stays"
    )
