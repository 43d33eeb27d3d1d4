"""The events of a file: what each concerns, and what is refused by its line and field."""

import pytest

from servingplan.errors import InputError
from servingplan.replay.events import DemandEvent, PoolEvent, events_of
from tests.unit.replay.test_trace import SPEC


def read(*items):
    return events_of(enumerate(items, start=1), SPEC, name="e.yaml")


def test_events_of_pools_and_of_requests_stand_in_one_file():
    lost, surge, launch = read(
        {"at": 1, "event": "NodeLost", "pool": "p"},
        {"at": 2, "event": "Surge", "model": "small", "class": "long", "factor": 3, "seconds": 60},
        {"at": 3, "event": "Launch", "model": "gated", "seconds": 600},
    )
    assert isinstance(lost, PoolEvent)
    assert lost.words == "a node of p is lost"
    assert isinstance(surge, DemandEvent)
    assert isinstance(launch, DemandEvent)
    assert surge.words == "requests to small/long x 3"
    assert launch.words == "requests to gated begin"
    assert surge.concerns("small", "long")
    assert not surge.concerns("small", "short")
    assert launch.concerns("gated", "only")
    assert read({"at": 0, "event": "Surge"})[0].words == "requests to all models x 2"


@pytest.mark.parametrize(
    ("items", "field", "words"),
    [
        ([{"at": 1, "event": "Flood"}], "event", "must be one of NodeLost, Slow, Refused, Surge, Launch"),
        ([{"at": 1, "event": ["Surge"]}], "event", "must be one of"),
        ([7], None, "must be a mapping with at, event, and its pool or model"),
        ([{"at": 1, "event": "NodeLost"}], "pool", "is required; give one of p"),
        ([{"at": 1, "event": "Surge", "factor": 1e300}], "factor", "must be at most"),
        ([{"at": -1, "event": "Surge"}], "at", "must be at least 0"),
        ([{"at": 1, "event": "Surge", "pool": "p"}], "pool", "is not known"),
        ([{"at": 1, "event": "Surge", "factor": 0}], "factor", "must be above 0"),
        ([{"at": 1, "event": "NodeLost", "pool": "q"}], "pool", "is none of the plan's pools; give one of p"),
        ([{"at": 1, "event": "Surge", "model": "big"}], "model", "give one of gated, small"),
        ([{"at": 1, "event": "Surge", "model": "small", "class": "x"}], "class", "give one of long, short"),
        ([{"at": 1, "event": "Surge", "class": "long"}], "model", "is required with a class; give one of gated, small"),
        ([{"at": 1, "event": "Launch"}], "model", "is required"),
        ([{"at": 2, "event": "Surge"}, {"at": 1, "event": "Surge"}], "at", "is before the event above it, at 2"),
        (
            [{"at": 1, "event": "Launch", "model": "small"}, {"at": 2, "event": "Launch", "model": "small", "class": "long"}],
            "model",
            "is launched above",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_line_and_field(items, field, words):
    with pytest.raises(InputError) as refused:
        read(*items)
    assert refused.value.field == f"e.yaml line {len(items)}, event {len(items)}" + (f": {field}" if field else "")
    assert words in str(refused.value)
