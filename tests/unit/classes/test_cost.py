"""Dollars of fewer classes: the question put together by hand, by its rates, and by what it leads to."""

from pathlib import Path

import pytest
import yaml

from servingplan.classes.cells import cells_of
from servingplan.classes.cost import Fine, Price, enough_for, finest, price_of, with_classes
from servingplan.classes.fit import fit
from servingplan.classes.propose import priced, propose
from servingplan.classes.request import Request
from servingplan.classes.split import Rectangle
from servingplan.classes.tally import Tally
from servingplan.classes.work import pace_of, replicas_on
from servingplan.cli.imagine import imagined_world
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.planning.situation import Situation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.solve import solve
from servingplan.verify import verify

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/chat.yaml"
MODEL = find_model("llama-3.1-8b")
SPECIALISTS = q.Question(
    objective="MinimizeCost",
    budget_dollars_per_hour=1000.0,
    pools=(
        q.Pool(name="a", gpus_per_node=1, dollars_per_node_hour=1.0, max_nodes=90),
        q.Pool(name="b", gpus_per_node=1, dollars_per_node_hour=1.0, max_nodes=90),
    ),
    classes=(
        q.RequestClass(name="m/short", model="m", requests_per_second=30.0),
        q.RequestClass(name="m/long", model="m", requests_per_second=10.0),
    ),
    shapes=(
        q.Shape(name="on-a", model="m", gpus={"a": 1}, requests_per_second={"m/short": 10.0, "m/long": 1.0}),
        q.Shape(name="on-b", model="m", gpus={"b": 1}, requests_per_second={"m/short": 2.0, "m/long": 2.0}),
    ),
)
FINE = Fine(
    SPECIALISTS, "m", {"m/short": Rectangle(0, 1, 0, 1), "m/long": Rectangle(1, 2, 0, 1)}, fits=(), unservable=0.0
)


def answered(question, _spec=None):
    answer = solve(question, method="anytime", deadline_seconds=20)
    assert verify(question, answer) == ()
    return answer


def dollars(question):
    found = price_of(FINE, question, answered(question))
    assert found.served == pytest.approx(1)
    return found.dollars_per_hour


def one_and_two_classes():
    tally = Tally()
    for request in [Request(100, 50)] * 30 + [Request(120, 5)] * 10:
        tally.add(request)
    replicas, _ = replicas_on([find_gpu("L40S")], model=MODEL, precision="bf16", context_tokens=500)
    return tally, fit(cells_of(tally), [pace_of(item, tally.sums) for item in replicas], most=2)


def test_one_class_cannot_send_each_part_where_it_is_served_best():
    _, (one, two) = one_and_two_classes()
    assert dollars(with_classes(FINE, None)) == dollars(with_classes(FINE, two)) == 30 / 10 + 10 / 2
    together = with_classes(FINE, one)
    rates = {shape.name: shape.requests_per_second for shape in together.shapes}
    # 3 parts in 4 are short: 4 requests take 3/10 + 1/1 and 3/2 + 1/2 seconds.
    assert rates["on-a"] == {"m/all": pytest.approx(4 / 1.3)}
    assert rates["on-b"] == {"m/all": pytest.approx(2.0)}
    assert dollars(together) == 13


def test_a_shape_serves_a_class_only_if_it_serves_every_part():
    _, (one, _) = one_and_two_classes()
    only_short = SPECIALISTS.shapes[1].model_copy(update={"requests_per_second": {"m/short": 10.0}})
    question = SPECIALISTS.model_copy(update={"shapes": (SPECIALISTS.shapes[0], only_short)})
    together = with_classes(FINE._replace(question=question), one)
    assert [shape.name for shape in together.shapes] == ["on-a"]


def plan_of(**changes):
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"] |= changes
    situation = Situation(imagined_world(manifest))
    assert not situation.spec_errors
    return situation.spec, situation.pools


def mixed_tally():
    tally = Tally()
    for number in range(400):
        tally.add(Request(200 + 37 * number % 6000, 1 + 91 * number % 300))
    return tally


def proposal_of(tally, most=3):
    gpus = [find_gpu("L40S"), find_gpu("H100-SXM-80GB")]
    return propose(tally, model=MODEL, precision="bf16", gpus=gpus, most=most, requests_per_second=30.0)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_on_a_plan_no_fit_is_cheaper_than_the_finest_classes(objective):
    spec, pools = plan_of(objective=objective)
    heard = []
    found = priced(
        proposal_of(mixed_tally()),
        spec=spec,
        pools=pools,
        model="llama-3.1-8b",
        solve=answered,
        before_each=lambda done, whole: heard.append((done, whole)),
    )
    assert heard == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert len(found.prices) == len(found.fits) == 3
    for price in found.prices:
        assert price.proved
        assert price.served <= found.finest_price.served * (1 + 1e-6)
        if objective == "MinimizeCost":
            assert price.served == pytest.approx(1)
            assert price.dollars_per_hour >= found.finest_price.dollars_per_hour * (1 - 1e-6)
    assert found.recommended in range(3)


@pytest.mark.slow
def test_where_nodes_are_short_finer_classes_serve_more_of_every_class():
    spec, pools = plan_of(budget={"dollarsPerHour": "30"})
    found = priced(proposal_of(mixed_tally()), spec=spec, pools=pools, model="llama-3.1-8b", solve=answered)
    served = [price.served for price in (*found.prices, found.finest_price)]
    assert 0 <= min(served) <= max(served) == pytest.approx(served[-1])


@pytest.mark.parametrize(
    ("prices", "index"),
    [
        ([(40, 0.4), (90, 0.9), (80, 1.0), (79, 1.0)], 2),
        ([(40, 1.0), (39.5, 1.0)], 0),
        ([(10, 0.5), (20, 0.505), (30, 0.9)], 2),
        ([(0, 0.0)], 0),
    ],
)
def test_what_is_served_counts_before_what_it_costs(prices, index):
    assert enough_for([Price(dollars, served, True) for dollars, served in prices], gain=0.02) == index


def test_the_rates_of_the_parts_add_up():
    spec, pools = plan_of()
    found = proposal_of(mixed_tally())
    fine = finest(
        spec=spec, pools=pools, model="llama-3.1-8b", cells=found.cells, fits=found.fits, requests_per_second=30.0
    )
    for item in (None, *fine.fits):
        classes = [part for part in with_classes(fine, item).classes if part.model == "llama-3.1-8b"]
        assert sum(part.requests_per_second for part in classes) == pytest.approx(30.0, abs=1e-4)
    others = [item for item in fine.question.classes if item.model != "llama-3.1-8b"]
    assert [item.name for item in others] == ["llama-3.1-70b/chat", "llama-3.1-70b/long-in"]


def test_requests_that_nothing_can_serve_are_said_and_left_out():
    spec, pools = plan_of()
    short = [item.model_copy(update={"max_model_len": 4096}) for item in spec.models]
    found = proposal_of(mixed_tally())
    fine = finest(
        spec=spec.model_copy(update={"models": tuple(short)}),
        pools=pools,
        model="llama-3.1-8b",
        cells=found.cells,
        fits=found.fits,
        requests_per_second=30.0,
    )
    assert 0.1 < fine.unservable < 0.6
    asked = sum(item.requests_per_second for item in fine.question.classes if item.model == "llama-3.1-8b")
    assert asked == pytest.approx(30 * (1 - fine.unservable), abs=1e-3)


def test_a_plan_that_can_serve_none_of_it_says_why():
    spec, pools = plan_of()
    short = tuple(item.model_copy(update={"max_model_len": 100}) for item in spec.models)
    found = proposal_of(mixed_tally())
    with pytest.raises(InputError, match="maxModelLen"):
        finest(
            spec=spec.model_copy(update={"models": short}),
            pools=pools,
            model="llama-3.1-8b",
            cells=found.cells,
            fits=found.fits,
            requests_per_second=30.0,
        )
