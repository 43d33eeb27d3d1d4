"""`servingplan report` from the shell: one file, right numbers, and names as text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.testing
import yaml

from servingplan.cli import app
from servingplan.report.page import page_html
from tests.simulated.plans import operator, plan
from tests.unit.replay.test_run import MANIFEST

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples/chat.yaml"
VOID = {"meta", "link", "br", "img", "input"}
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


def run(*arguments):
    return typer.testing.CliRunner().invoke(app, [*map(str, arguments)])


class Page(HTMLParser):
    """Tables by id as rows of cells, the elements, and the texts of drawings."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.tables, self.drawn, self.titles, self.content = [], [], {}, [], [], ""
        self._table = None
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(found["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open:
            return
        if {"td", "th"} & set(self.open):
            self._table[-1][-1] += data
        elif self.open[-1] == "text":
            self.drawn.append(data)
        elif self.open[-1] == "title":
            self.titles.append(data)
        elif self.open[-1] == "script":
            self.content += data


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "chat.html"
    result = run("report", EXAMPLE, "--budget", "40:110:3", "-o", path)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def content(page):
    return json.loads(page.content)


def test_it_is_one_file_without_network_and_without_scripts(html, page):
    assert len(html.encode()) < 6_000_000
    assert not {"img", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    assert [found for tag, found in page.elements if tag == "script"] == [{"type": "application/json", "id": "content"}]
    for _, found in page.elements:
        assert not {"src", "href", "srcset", "action"} & set(found)
        assert not any(name.startswith("on") for name in found)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [found["content"] for _, found in page.elements if "http-equiv" in found]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_content_is_what_the_other_commands_print(content):
    plan = json.loads(run("plan", EXAMPLE, "-o", "json").stdout)["fleet"]
    assert content["dollars_per_hour"] == plan["dollars_per_hour"]
    assert {pool["name"]: pool["nodes"] for pool in content["pools"]} == plan["nodes"]
    assert sum(pool["dollars_per_hour"] for pool in content["pools"]) == pytest.approx(plan["dollars_per_hour"])
    planned = {item["deployment"]: item["planned"] for item in plan["replica_sets"]}
    for flow in content["flows"]:
        assert planned[flow["deployment"]][flow["class"].split("/")[1]] == flow["requests_per_second"]
    assert sum(flow["requests_per_second"] for flow in content["flows"]) == pytest.approx(94)
    curve = json.loads(run("frontier", EXAMPLE, "--budget", "40:110:3", "-o", "json").stdout)
    for shown, true in zip(content["curve"]["points"], curve["points"], strict=True):
        assert shown == {name: true[name] for name in shown}
    assert content["curve"]["remarks"] == curve["remarks"]
    explained = json.loads(run("explain", EXAMPLE, "-o", "json").stdout)["answer"]["explanation"]
    assert len(content["limits"]) == len(explained["worth"])
    assert [item["name"] for item in content["alternatives"]] == [item["name"] for item in explained["alternatives"]]


def test_every_table_has_the_numbers_of_the_content(page, content):
    tables = {name: rows[1:] for name, rows in page.tables.items()}
    for row, item in zip(tables["replicas"], content["replicas"], strict=True):
        assert row[:2] == [item["model"], item["variant"]]
        assert row[5:8] == [str(item["copies"]), f"{item['requests_per_second']:.4g}", f"{item['utilization']:.1%}"]
    for row, item in zip(tables["pools"], content["pools"], strict=True):
        assert row[0] == item["name"]
        assert row[3] == str(item["nodes"])
        assert row[6] == f"{item['dollars_per_hour']:.2f}"
    for row, item in zip(tables["classes"], content["classes"], strict=True):
        assert row[0] == item["name"]
        assert row[3:6] == [f"{item[name]:.4g}" for name in ("asked", "planned", "unserved")]
    for row, item in zip(tables["flows"], content["flows"], strict=True):
        assert row == [item["class"], item["deployment"], f"{item['requests_per_second']:.4g}"]
    for place, (row, point) in enumerate(zip(tables["curve"], content["curve"]["points"], strict=True)):
        assert row[:3] == [f"{point['x']:.4g}", f"{point['dollars_per_hour']:.2f}", f"{point['served_share']:.1%}"]
        alone = [points[place]["served_share"] for points in content["curve"]["homogeneous"].values()]
        assert row[5:] == [f"{share:.1%}" for share in alone]
    for row, item in zip(tables["limits"], content["limits"], strict=True):
        assert row == [item["limit"], item["brings"]]
    for row, item in zip(tables["rates"], content["replicas"], strict=True):
        assert row[2] == item["rates_from"]
        assert item["evidence"]


def test_the_drawings_have_the_numbers_too(page, content):
    for item in content["replicas"]:
        assert f"{item['requests_per_second']:.4g}/s" in page.drawn
        assert any(f"{item['copies']} x {item['model']} {item['shape']}" == text for text in page.drawn)
    for pool in content["pools"]:
        assert f"{pool['dollars_per_hour']:.2f} $/h" in page.drawn
    for flow in content["flows"]:
        assert f"{flow['class']}: {flow['requests_per_second']:.4g}/s" in page.titles
    gpus = [found for tag, found in page.elements if tag == "rect" and found["class"].startswith("gpu m")]
    assert len(gpus) == sum(item["gpus"] * item["copies"] for item in content["replicas"])
    nodes = [found for tag, found in page.elements if tag == "rect" and found["class"] == "node"]
    assert len(nodes) == sum(pool["nodes"] for pool in content["pools"])


def test_widths_of_flows_are_their_rates(page, content):
    heights = [
        float(f["height"])
        for tag, f in page.elements
        if tag == "rect" and f["class"] == "pool" and float(f["width"]) == 12
    ]
    rates = {}
    for item in content["replicas"]:
        rates[item["pool"]] = rates.get(item["pool"], 0.0) + item["requests_per_second"]
    expected = [300 * rate / 94 for _, rate in sorted(rates.items())]
    assert heights == pytest.approx(expected, abs=0.06)


def test_predicted_latencies_keep_their_limits(content):
    assert {row["class"] for row in content["latency"]} == {item["name"] for item in content["classes"]}
    limits = {item["name"]: item for item in content["classes"]}
    near = 1 + 3e-5  # percentiles are found to 3 parts in 10^5
    for row in content["latency"]:
        assert 0 < row["ttft_percentile_seconds"] <= limits[row["class"]]["ttft_limit_seconds"] * near
        assert 0 < row["tpot_percentile_seconds"] <= limits[row["class"]]["tpot_limit_seconds"] * near


def test_the_band_of_a_latency_is_that_of_the_slowest_kind_of_replica(page, content):
    for name, what, _, _, predicted, mean, band, *_ in page.tables["latency"][1:]:
        key = what.lower()
        rows = [row for row in content["latency"] if row["class"] == name]
        slowest = max(rows, key=lambda row: row[f"{key}_percentile_seconds"])
        low, high = (slowest[f"{key}_seconds"] * ratio for ratio in slowest[f"{key}_band"])
        assert predicted == f"{slowest[f'{key}_percentile_seconds']:.3g}"
        assert mean == f"{slowest[f'{key}_seconds']:.3g}"
        assert band == f"{low:.3g} to {high:.3g}"


def test_a_curve_that_one_pool_passes_says_why(content):
    said = "the plan serves classes of higher priority first"
    (point, *_), alone = content["curve"]["points"], content["curve"]["homogeneous"]
    assert any(points[0]["served_share"] > point["served_share"] for points in alone.values())
    assert said in page_html(content)
    content = json.loads(json.dumps(content))
    for points in content["curve"]["homogeneous"].values():
        for one in points:
            one["served_share"] = 0.0
    assert said not in page_html(content)


def test_it_can_be_read_without_seeing_and_without_a_mouse(html, page):
    assert ("html", {"lang": "en"}) in page.elements
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert set(headings[1:]) == {2}
    assert all(found.get("aria-label") and found["role"] == "img" for tag, found in page.elements if tag == "svg")
    assert all(found.get("scope") in ("col", "row") for tag, found in page.elements if tag == "th")
    assert sum(tag == "caption" for tag, _ in page.elements) == sum(tag == "table" for tag, _ in page.elements)
    scrolled = [found for tag, found in page.elements if tag == "div" and found.get("class") in ("drawing", "wide")]
    assert all(found["tabindex"] == "0" and found["role"] == "group" and found["aria-label"] for found in scrolled)
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def over(colour, ground, *, part):
    """A colour that lets so much of the ground through."""
    mixed = (
        round(part * int(colour[place : place + 2], 16) + (1 - part) * int(ground[place : place + 2], 16))
        for place in (1, 3, 5)
    )
    return "#" + "".join(f"{value:02x}" for value in mixed)


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_texts_and_drawings_stand_out_in_light_dark_and_print(html):
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", part)) for part in re.findall(r":root \{(.*?)\}", html, re.DOTALL)]
    assert len(schemes) == 3
    for scheme in schemes:
        for name in ("ink", "quiet", "accent", "warn"):
            assert contrast(scheme[name], scheme["ground"]) >= 4.5, name
        for number in range(8):
            colour = scheme[f"m{number}"]
            assert contrast(colour, scheme["ground"]) >= 3.0, number
            assert contrast(scheme["ink"], over(colour, scheme["ground"], part=0.45)) >= 4.5, (
                number
            )  # a label on a flow


def small(tmp_path, **spec):
    path = tmp_path / "plan.yaml"
    manifest = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", **MANIFEST}
    path.write_text(yaml.safe_dump({**manifest, "spec": {**MANIFEST["spec"], **spec}}))
    return path


def test_a_replay_stands_beside_what_was_predicted_and_brings_its_own_plan(tmp_path):
    trace, result, html = (tmp_path / name for name in ("trace.jsonl", "r.json", "page.html"))
    rows = [{"timestamp": n / 10, "input_tokens": 300, "output_tokens": 20, "model": HOSTILE} for n in range(200)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result.write_text(run("replay", small(tmp_path), "--trace", trace, "--against", "homogeneous", "-o", "json").stdout)
    done = run("report", "--replay", result, "--budget", "4:8:2", "-o", html)
    assert done.exit_code == 0, done.output
    page, replayed = Page(html.read_text()), json.loads(result.read_text())
    (fleet, rival) = replayed["fleets"]
    assert [row[0] for row in page.tables["fleets"][1:]] == ["plan", "homogeneous"]
    assert page.tables["fleets"][2][1] == f"{rival['dollars_per_hour']:.2f}"
    for row, item in zip(page.tables["replayed"][1:], fleet["classes"], strict=True):
        assert row[:2] == [f"llama-3.1-8b/{item['name']}", str(item["arrived"])]
    short = {row[1]: row for row in page.tables["latency"][1:] if row[0] == "llama-3.1-8b/short"}
    times = next(item for item in fleet["classes"] if item["name"] == "short")["ttft_seconds"]
    assert short["TTFT"][7:] == [f"{times[name]:.3g}" for name in ("p5", "p50", "p95", "p99", "p100")]
    assert sum(tag == "rect" and found["class"] == "simulated" for tag, found in page.elements) == 2
    # The model of the trace is markup, and stands there as text.
    assert HOSTILE not in html.read_text()
    assert json.loads(page.content)["replay"]["trace"]["other_models"] == {HOSTILE: 200}


def test_the_steps_of_the_operator_on_a_trace_are_shown(tmp_path):
    events, result, html = (tmp_path / name for name in ("events.yaml", "r.json", "page.html"))
    events.write_text("- {at: 20.5, event: NodeLost, pool: l40s}\n")
    how = ("--generate", "200", "--events", events, "--operator", "--node-seconds", "40", "--engine-seconds", "20")
    result.write_text(run("replay", small(tmp_path), *how, "-o", "json").stdout)
    done = run("report", "--replay", result, "--budget", "4:8:2", "-o", html)
    assert done.exit_code == 0, done.output
    page, (_, operated) = Page(html.read_text()), json.loads(result.read_text())["fleets"]
    course = operated["course"]
    assert len(course["steps"]) > 3
    assert page.tables["steps"][1:] == [[f"{item['at']:g}", item["what"]] for item in course["steps"]]
    assert page.tables["spend"][1:] == [
        [f"{item['at']:g}", f"{item['dollars_per_hour']:.2f}"] for item in course["spend"]
    ]
    found = [(phase["phase"], item) for phase in course["phases"] for item in phase["classes"]]
    assert [name for name, _ in found] == ["before"] * 2 + ["during"] * 2 + ["after"] * 2
    for row, (name, item) in zip(page.tables["phases"][1:], found, strict=True):
        assert (row[0], row[4], row[5]) == (name, item["class"], str(item["arrived"]))
        assert row[7:] == [str(item[field]) for field in ("status_429", "status_503", "cut")]


def test_every_name_reaches_the_page_as_text(content):
    """Whatever the plan's own checks let through: all texts of the content are markup here."""

    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return value + HOSTILE if isinstance(value, str) else value

    page = spoiled(content)
    for pool in page["pools"]:
        for group in pool["groups"]:
            group["replicas"] = {name + HOSTILE: count for name, count in group["replicas"].items()}
    page["curve"]["homogeneous"] = {name + HOSTILE: of for name, of in page["curve"]["homogeneous"].items()}
    html = page_html(page)
    clean = page_html(content)
    assert "<script>alert" not in html
    assert [tag for tag, _ in Page(html).elements] == [tag for tag, _ in Page(clean).elements]
    assert Page(html).tables["replicas"][1][0].endswith(HOSTILE)
    assert json.loads(Page(html).content) == page


def test_a_plan_that_serves_a_part_shows_what_is_missing_and_why(tmp_path):
    html = tmp_path / "page.html"
    done = run("report", small(tmp_path, budget={"dollarsPerHour": "2"}), "--budget", "0:4:3", "-o", html)
    assert done.exit_code == 0, done.output
    page = Page(html.read_text())
    content = json.loads(page.content)
    assert content["served_share"] < 1
    missing = sum(item["unserved"] for item in content["classes"])
    assert f"not served: {missing:.4g}/s" in page.drawn
    assert content["clash"]


def test_the_plan_in_force_is_shown_where_a_world_has_one(tmp_path):
    driver = operator(plan())
    driver.settle()
    world, file, html = (tmp_path / name for name in ("world.json", "plan.yaml", "page.html"))
    world.write_text(driver.cluster.observe().model_dump_json())
    manifest = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", "metadata": {"name": "chat"}}
    file.write_text(yaml.safe_dump({**manifest, "spec": plan()}))
    done = run("report", file, "--world", world, "--budget", "0:100:3", "-o", html)
    assert done.exit_code == 0, done.output
    content = json.loads(Page(html.read_text()).content)
    assert content["hash"] == driver.decision.fleet.hash
    assert {row["deployment"] for row in content["latency"]} == {row["deployment"] for row in content["flows"]}


def test_what_engines_measured_stands_beside_what_was_predicted(tmp_path):
    driver = operator(plan())
    driver.settle()
    seen = driver.cluster.observe().model_dump(mode="json")
    (deployment, *_) = seen["plan"]["status"]["deployments"]
    deployment["learned"] = {
        "at": "2026-01-01T00:00:00Z",
        "requestsPerSecond": "1",
        "percentile": "95",
        "ttftSeconds": {"observed": "0.3", "predicted": "0.2"},
        "ttftPercentileSeconds": {"observed": "0.77", "predicted": "0.5"},
        "tpotSeconds": {"observed": "0.0321", "predicted": "0.03"},
        "rateFactor": "1",
        "ttftFactor": "1",
        "tpotFactor": "1",
    }
    world, file, html = (tmp_path / name for name in ("world.json", "plan.yaml", "page.html"))
    world.write_text(json.dumps(seen))
    manifest = {"apiVersion": "servingplan.dev/v1alpha1", "kind": "LLMServingPlan", "metadata": {"name": "chat"}}
    file.write_text(yaml.safe_dump({**manifest, "spec": plan()}))
    done = run("report", file, "--world", world, "--budget", "0:100:3", "-o", html)
    assert done.exit_code == 0, done.output
    table = Page(html.read_text()).tables["latency"]
    place = table[0].index("observed")
    found = {row[1]: row[place] for row in table[1:] if row[place]}
    assert found == {"TTFT": "0.77 (P95)", "TPOT": "0.0321 (mean)"}
    assert "observed P95: 0.77 s, all classes of its Deployment" in html.read_text()


def test_a_mix_is_shown_by_its_multiple(tmp_path):
    html = tmp_path / "page.html"
    done = run("report", small(tmp_path, objective="MaximizeService"), "--budget", "4:8:2", "-o", html)
    assert done.exit_code == 0, done.output
    content = json.loads(Page(html.read_text()).content)
    assert f"{content['scale']:.4g} times the mix" in html.read_text()


def test_a_replica_over_two_nodes_holds_the_gpus_of_both(content):
    content = json.loads(json.dumps(content))
    (item, *_), (pool, *_) = content["replicas"], [pool for pool in content["pools"] if pool["name"] == "l40s"]
    item |= {"gpus": 16, "copies": 1, "pool": "l40s"}
    pool["groups"] = [{"nodes": 2, "replicas": {item["deployment"]: 1}}]
    for other in content["pools"]:
        other["groups"] = other["groups"] if other is pool else []
    page = Page(page_html(content))
    gpus = [found for tag, found in page.elements if tag == "rect" and found["class"].startswith("gpu m")]
    assert len(gpus) == 16


def test_many_like_nodes_are_drawn_once(content):
    content = json.loads(json.dumps(content))
    pool = next(pool for pool in content["pools"] if pool["nodes"] == 1)
    pool["nodes"] = pool["groups"][0]["nodes"] = 500
    page = Page(page_html(content))
    assert "x 500" in page.drawn
    assert sum(tag == "rect" and found["class"] == "node" for tag, found in page.elements) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give PLAN.yaml, --live NAME or --replay R.json"),
        ((EXAMPLE, "--live", "chat"), "give either PLAN.yaml or --live NAME"),
        (("--replay", "nowhere.json"), "nowhere.json: cannot be read"),
        ((EXAMPLE, "--replay", EXAMPLE), "cannot be read"),
    ],
)
def test_a_wrong_use_leaves_with_two(tmp_path, arguments, said):
    result = run("report", *arguments, "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    result = run("report", small(tmp_path), "--budget", "4:8:2", "-o", tmp_path / "no" / "page.html")
    assert result.exit_code == 2
    assert "its folder does not exist; make it, or give a file in a folder that exists" in result.stderr


@pytest.mark.parametrize(
    "damage", [[], ["fleet"], [{}], [{"classes": [5]}], [{"classes": [{"model": "m", "name": "k"}]}]]
)
def test_a_damaged_replay_is_refused_with_how_to_write_one(tmp_path, damage):
    path = tmp_path / "r.json"
    result = json.loads(run("replay", small(tmp_path), "--generate", "2", "-o", "json").stdout)
    path.write_text(json.dumps({**result, "fleets": damage}))
    refused = run("report", small(tmp_path), "--replay", path, "-o", tmp_path / "page.html")
    assert refused.exit_code == 2
    assert "is no whole result of servingplan replay; write one by: servingplan replay PLAN.yaml" in refused.stderr


def test_a_replay_of_another_plan_is_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(run("replay", small(tmp_path), "--generate", "5", "-o", "json").stdout)
    result = run("report", EXAMPLE, "--replay", path, "-o", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "--replay: 'llm/small': is of another plan than llm/chat" in result.stderr
