"""Checks that the copies can bear their load, and that served and unserved rates add up to the asked ones."""

import math
from collections import defaultdict
from collections.abc import Iterator

from servingplan.verify.case import TOLERANCE, Case, above, same, utilization


def load(case: Case) -> Iterator[str]:
    """The shapes whose copies are busier than their utilisation allows."""
    busy: defaultdict[str, float] = defaultdict(float)
    for k, rates in case.answer.rates.items():
        for c, rate in rates.items():
            busy[c] += rate / case.shapes[c].requests_per_second[k]
    for c, load in busy.items():
        copies = case.answer.replicas.get(c, 0)
        limit = utilization(case.shapes[c], copies)
        if above(load, limit):
            yield f"rates keep {load} copies of {c!r} busy; {copies} copies may be busy with {limit} at most"


def service(case: Case) -> Iterator[str]:
    """The classes whose served and unserved rates do not add up to the asked rate. Under MaximizeService, also the classes
    that do not get the scale."""
    answer = case.answer
    for name, cls in case.classes.items():
        served, asked = case.served[name], cls.requests_per_second
        if case.question.objective == "MaximizeService":
            if answer.scale is None or not same(served, answer.scale * asked):
                yield f"rates.{name} sum to {served}; scale {answer.scale} times {asked} is needed"
            if name in answer.unserved:
                yield f"unserved.{name} is {answer.unserved[name]}; MaximizeService leaves nothing unserved"
            continue
        unserved = answer.unserved.get(name, 0.0)
        if above(served, asked):
            yield f"rates.{name} sum to {served}, above requests_per_second {asked}"
        if abs(served + unserved - asked) > TOLERANCE * asked + 1e-12:
            yield f"rates.{name} sum to {served} and unserved is {unserved}; together they must be {asked}"


def quality(case: Case) -> Iterator[str]:
    """The classes with a mean quality loss above their limit."""
    for name, cls in case.classes.items():
        if cls.quality_loss_limit is None:
            continue
        rates = case.answer.rates.get(name, {})
        lost = math.fsum(rate * case.shapes[c].quality_loss.get(name, 0.0) for c, rate in rates.items())
        if above(lost, cls.quality_loss_limit * case.served[name]):
            mean = lost / case.served[name]
            yield f"rates.{name} have a mean quality loss of {mean}, above quality_loss_limit {cls.quality_loss_limit}"
