"""Rates of many replicas at once: what the planner asks for every layout of every variant.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` answers for one replica and one
class; here the limits of all of them are looked at together (``promise.all_limited``), and answers are remembered.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from servingplan.profiles.estimate import Estimate, Made, unlimited
from servingplan.profiles.fit import Unfit
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.measured import MeasuredRows
from servingplan.profiles.promise import Requests, Unlimited, all_limited

type Answers = Mapping[str, Estimate | Unfit]
"""By name of the class."""

MOST_REMEMBERED = 16384


class Replica(NamedTuple):
    """A replica inside a node, and the classes of requests that it is asked about."""

    made: Made
    classes: tuple[Requests, ...]


type _Key = tuple[Replica, float, MeasuredRows]

_remembered: dict[_Key, Answers] = {}


def forget() -> None:
    """Answer anew from now on."""
    _remembered.clear()


def rates_of(replicas: Iterable[Replica], *, confidence: float, rows: MeasuredRows) -> dict[Replica, Answers]:
    """What each replica does for each of its classes, each served alone.

    Every turn poses its question again, to see whether it changed, and mostly with the same replicas: so answers are
    remembered. A turn of the example at rest took 0.8 s of processor time without that, and takes 0.03 s with it.

    Args:
        confidence: probability that a true rate is at least the planned one.
        rows: measurements that correct the formulas.
    """
    found: dict[Replica, Answers] = {}
    fresh: dict[Replica, None] = {}
    for replica in replicas:
        known = _remembered.get((replica, confidence, rows))
        if known is None:
            fresh[replica] = None
        else:
            found[replica] = known
    answers = all_limited([_unlimited(replica, confidence, rows) for replica in fresh])
    found.update(zip(fresh, answers, strict=True))
    if len(_remembered) + len(fresh) > MOST_REMEMBERED:
        forget()
    _remembered.update(((replica, confidence, rows), found[replica]) for replica in fresh)
    return found


def _unlimited(replica: Replica, confidence: float, rows: MeasuredRows) -> Unlimited:
    made, classes = replica
    found = unlimited(made, classes, confidence=confidence, rows=rows)
    return Unlimited(found, classes, made.steps, first_token_seconds(made.settings, made.model))
