"""What Karpenter's metrics say of the nodes that a pool may get."""

import pytest

from servingplan.model.world import NodeTemplate, Offered
from servingplan.observe import offerings
from servingplan.observe.offerings import AVAILABLE, PRICE, Offerings
from servingplan.observe.urls import NoAnswer
from servingplan.settings import SharedPrometheus

SHARED = SharedPrometheus(url="http://prometheus.monitoring:9090")
H100 = NodeTemplate(instance_types=("p5.48xlarge",), capacity_type="OnDemand")


def row(instance_type, value, *, capacity_type="on-demand", zone="us-east-1a"):
    labels = {"instance_type": instance_type, "capacity_type": capacity_type, "zone": zone}
    return {"metric": labels, "value": [1.0, str(value)]}


class Prometheus:
    """Answers with the rows of a metric."""

    def __init__(self, available, prices=()):
        self.rows = {AVAILABLE: available, PRICE: prices}
        self.asked = []

    def __call__(self, text):
        self.asked.append(text)
        (rows,) = (rows for metric, rows in self.rows.items() if text.endswith(f"({metric})"))
        if isinstance(rows, Exception):
            raise rows
        return rows


def read(available, prices=(), template=H100):
    known = Offerings(SHARED, Prometheus(available, prices))
    known.read()
    return known.of(template)


def test_a_pool_is_sold_out_if_no_zone_and_no_type_of_it_has_any():
    there, gone = row("p5.48xlarge", 1, zone="us-east-1b"), row("p5.48xlarge", 0)
    assert read([there, gone]) == Offered(available=True)
    assert read([gone, row("g6.12xlarge", 1)]) == Offered(available=False)
    assert read([there, gone], template=H100.model_copy(update={"zones": ("us-east-1a",)})) == Offered(available=False)


def test_only_offerings_of_the_pool_s_capacity_type_count():
    rows = [row("p5.48xlarge", 0), row("p5.48xlarge", 1, capacity_type="spot")]
    assert read(rows) == Offered(available=False)
    assert read(rows, template=H100.model_copy(update={"capacity_type": "Spot"})) == Offered(available=True)
    assert read(rows, template=H100.model_copy(update={"capacity_type": None})) == Offered(available=True)


def test_the_price_is_that_of_the_dearest_offering_that_the_pool_may_get():
    prices = [row("p5.48xlarge", 98.3), row("p5.48xlarge", 99.1, zone="us-east-1b"), row("p5e.48xlarge", 120)]
    found = read([row("p5.48xlarge", 1)], prices)
    assert found == Offered(available=True, dollars_per_node_hour=99.1)


@pytest.mark.parametrize("template", [NodeTemplate(), NodeTemplate(instance_types=("p4d.24xlarge",))])
def test_nothing_is_said_of_types_that_are_not_known(template):
    assert read([row("p5.48xlarge", 0)], template=template) is None


def test_without_a_prometheus_nothing_is_asked():
    prometheus = Prometheus([row("p5.48xlarge", 0)])
    assert Offerings(SharedPrometheus(), prometheus).of(H100) is None
    assert prometheus.asked == []


@pytest.mark.parametrize("answer", [NoAnswer("it cannot be reached"), [{"metric": {}}], [{"value": []}], [7]])
def test_a_reading_counts_for_a_while_if_the_next_one_fails(monkeypatch, answer):
    now = [0.0]
    monkeypatch.setattr(offerings.time, "monotonic", lambda: now[0])
    prometheus = Prometheus([row("p5.48xlarge", 0)])
    known = Offerings(SHARED, prometheus)
    known.read()
    prometheus.rows[AVAILABLE] = answer
    now[0] = offerings.KEPT_SECONDS
    known.read()
    assert known.of(H100) == Offered(available=False)
    now[0] += 1.0
    assert known.of(H100) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_values_that_are_none_say_nothing(value):
    assert read([row("p5.48xlarge", value)]) is None
    assert read([row("p5.48xlarge", 1)], [row("p5.48xlarge", value)]) == Offered(available=True)
