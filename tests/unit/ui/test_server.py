"""`servingplan ui`: read-only pages of live plans."""

import json
import re

import pytest
import typer
from aiohttp.test_utils import TestClient, TestServer

from servingplan.answering import solve_with
from servingplan.cli.ui import LOCAL, is_loopback, names_of
from servingplan.errors import ApiError
from servingplan.ui import pages
from servingplan.ui.server import HEADERS, KEPT_SECONDS, Ui
from tests.simulated.plans import operator, plan
from tests.unit.test_report_command import HOSTILE, Page


@pytest.fixture(scope="module")
def world():
    driver = operator(plan())
    driver.settle()
    return driver.cluster.observe()


@pytest.fixture
async def serve():
    clients = []

    async def begin(world, **how):
        observe = how.pop("observe", lambda namespace, name: world if (namespace, name) == ("llm", "chat") else None)
        client = TestClient(TestServer(Ui(lambda: [world.plan], observe, **how).application()))
        await client.start_server()
        clients.append(client)
        return client

    yield begin
    for client in clients:
        await client.close()


def with_status(world, **status):
    return world.model_copy(update={"plan": world.plan.model_copy(update={"status": status})})


def content_of(html):
    return json.loads(Page(html).content)


async def test_the_list_leads_to_each_plan(world, serve):
    conditions = [{"type": "Ready", "status": "False", "message": HOSTILE}]
    client = await serve(with_status(world, served="80%", cost={"spendPerHour": "12.50"}, conditions=conditions))
    answer = await client.get("/")
    page = Page(await answer.text())
    assert page.tables["plans"][1] == ["llm/chat", "80%", "12.50", "False", HOSTILE]
    assert [found["href"] for tag, found in page.elements if tag == "a"] == ["/plans/llm/chat"]
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img"})


async def test_the_list_and_the_page_have_what_the_operator_publishes(world, serve):
    client = await serve(world)
    row = Page(await (await client.get("/")).text()).tables["plans"][1]
    assert row[:4] == ["llm/chat", world.plan.status["served"], world.plan.status["cost"]["spendPerHour"], "True"]
    html = await (await client.get("/plans/llm/chat")).text()
    past = world.plan.status["history"][0]
    assert Page(html).tables["history"][1] == [
        past[name] for name in ("time", "hash", "reason", "dollarsPerHour", "served")
    ]
    assert content_of(html)["hash"] == past["hash"]


async def test_a_page_shows_the_plan_in_force_with_its_past_and_its_next_step(world, serve):
    history = [
        {"time": "2026-01-01T00:00:00Z", "hash": "ab12", "reason": HOSTILE, "dollarsPerHour": "7", "served": "100%"}
    ]
    transition = {"step": 2, "of": 5, "waitingFor": HOSTILE}
    client = await serve(with_status(world, history=history, transition=transition))
    answer = await client.get("/plans/llm/chat")
    assert answer.status == 200
    html = await answer.text()
    page, content = Page(html), content_of(html)
    assert content["hash"] in html
    assert content["flows"]
    assert page.tables["history"][1] == ["2026-01-01T00:00:00Z", "ab12", HOSTILE, "7", "100%"]
    assert content["transition"] == {"step": "2", "of": "5", "waitingFor": HOSTILE}
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert "form" not in {tag for tag, _ in page.elements}
    assert f"As of {world.now}" in html


async def test_a_changed_plan_is_tried_where_that_is_allowed_and_nothing_is_applied(world, serve):
    client = await serve(world, what_if=True)
    own = content_of(await (await client.get("/plans/llm/chat")).text())
    html = await (await client.get("/plans/llm/chat", params={"budget": "1000.5", "demand": "2"})).text()
    tried = content_of(html)
    assert "This plan is only tried, nothing is applied: budget 1000.5 $/h 2 times the declared rates." in " ".join(
        re.sub("<[^>]+>", "", html).split()
    )
    assert tried["budget_dollars_per_hour"] == 1000.5
    assert tried["asked"] == pytest.approx(2 * own["asked"])
    assert tried["dollars_per_hour"] > own["dollars_per_hour"]
    again = content_of(await (await client.get("/plans/llm/chat")).text())
    assert again["hash"] == own["hash"]


async def test_a_changed_plan_is_searched_like_an_edit(world, serve, monkeypatch):
    """Without haste, however slow the machine is, and without the gain that a move from the plan in force must bring."""
    asked = []

    def solver():
        solve = solve_with()

        def answer(question, spec, at_most_seconds=None, *, first=False):
            asked.append((at_most_seconds, question.change))
            return solve(question, spec, at_most_seconds, first=first)

        return answer

    monkeypatch.setattr(pages, "solve_with", solver)
    client = await serve(world, what_if=True)
    for demand in ("2", "0.5"):
        assert (await client.get("/plans/llm/chat", params={"demand": demand})).status == 200
    assert asked == [(None, None)] * 2


async def test_a_changed_plan_is_refused_where_that_is_off(world, serve):
    client = await serve(world)
    answer = await client.get("/plans/llm/chat", params={"budget": "5"})
    assert answer.status == 403
    assert "--what-if" in await answer.text()


@pytest.mark.parametrize("value", ["x", "nan", "-1", "0", "1e99", "Infinity", "<b>"])
async def test_a_value_that_makes_no_sense_is_refused_by_field(world, serve, value):
    client = await serve(world, what_if=True)
    answer = await client.get("/plans/llm/chat", params={"demand": value})
    assert answer.status == 400
    assert (await answer.text()).startswith(f"demand: {value!r}: must be")
    assert answer.content_type == "text/plain"


async def test_nothing_can_be_written(world, serve):
    client = await serve(world, what_if=True)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/", "/plans/llm/chat"):
            assert (await client.request(method, path)).status == 405


async def test_every_answer_forbids_scripts_frames_and_guessing(world, serve):
    client = await serve(world)
    for path in ("/", "/healthz", "/plans/llm/other", "/nowhere"):
        answer = await client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert (await client.get("/plans/llm/other")).status == 404
    assert (await client.get("/nowhere")).status == 404


async def test_on_this_machine_alone_only_its_own_names_are_answered(world, serve):
    client = await serve(world)
    for host, status in (
        ("evil.example:8080", 403), ("127.0.0.1.evil.example", 403), ("localhost:8080", 200), ("[::1]:8080", 200),
        ("127.0.0.1", 200), ("localhost", 200),
    ):  # fmt: skip
        assert (await client.get("/", headers={"Host": host})).status == status, host
    open_to_all = await serve(world, own_names=None)
    assert (await open_to_all.get("/", headers={"Host": "plans.example"})).status == 200


async def test_behind_an_ingress_its_own_names_are_those_that_are_given(world, serve):
    client = await serve(world, own_names=frozenset({"localhost", "plans.example"}))
    for host, status in (
        ("plans.example", 200),
        ("Plans.Example:443", 200),
        ("localhost:8080", 200),
        ("evil.example", 403),
    ):
        answer = await client.get("/", headers={"Host": host})
        assert answer.status == status, host
    assert await answer.text() == "this server answers to localhost, plans.example only\n"


async def test_a_page_is_kept_for_a_while(world, serve):
    looked, now = [], [0.0]

    def observe(namespace, name):
        looked.append(name)
        return world

    client = await serve(world, observe=observe, clock=lambda: now[0])
    for moment, times in ((0.0, 1), (KEPT_SECONDS, 1), (KEPT_SECONDS + 1, 2)):
        now[0] = moment
        await client.get("/plans/llm/chat")
        assert len(looked) == times


async def test_a_cluster_that_cannot_be_read_is_told(world, serve):
    def observe(namespace, name):
        raise ApiError(403, "Forbidden", "cannot get llmservingplans")

    client = await serve(world, observe=observe)
    answer = await client.get("/plans/llm/chat")
    assert answer.status == 502
    assert "403 Forbidden: cannot get llmservingplans" in await answer.text()


async def test_a_plan_that_cannot_be_shown_says_why(world, serve):
    spec = {**world.plan.spec, "models": []}
    broken = world.model_copy(
        update={"plan": world.plan.model_copy(update={"spec": spec}), "objects": ()},
    )
    client = await serve(broken)
    answer = await client.get("/plans/llm/chat")
    assert answer.status == 422
    assert "models" in await answer.text()


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("plans", False)]
)
def test_which_addresses_are_of_this_machine_alone(host, own):
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("host", "given", "names"),
    [
        ("127.0.0.1", "", LOCAL),
        ("127.0.0.1", "Plans.example", {"plans.example"}),
        ("0.0.0.0", "localhost, plans.example", {"localhost", "plans.example"}),
        ("0.0.0.0", "*", None),
    ],
)
def test_to_which_names_it_answers(host, given, names):
    assert names_of(host, given) == names


def test_an_address_that_other_machines_reach_needs_names(capsys):
    with pytest.raises(typer.Exit):
        names_of("0.0.0.0", "")
    assert "--own-names" in capsys.readouterr().err
