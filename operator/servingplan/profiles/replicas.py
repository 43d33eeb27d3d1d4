"""Estimates of many replicas at once: the planner needs them for every layout of every variant.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` answers for one replica and one
class. Here the limits of all replicas are computed together (``promise.all_limited``), and estimates are cached.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from servingplan.profiles.estimate import Estimate, Made, unlimited
from servingplan.profiles.fit import Unfit
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.learned import Learned
from servingplan.profiles.measured import MeasuredRows
from servingplan.profiles.promise import Requests, Unlimited, all_limited

type Answers = Mapping[str, Estimate | Unfit]
"""Estimates by name of the class."""

MOST_REMEMBERED = 16384
"""The most replicas in the cache."""


class Replica(NamedTuple):
    """A replica inside a node, and the classes of requests to estimate."""

    made: Made
    classes: tuple[Requests, ...]
    learned: Learned = Learned()
    """What was learned about such replicas."""


type _Key = tuple[Replica, float, MeasuredRows]

_remembered: dict[_Key, Answers] = {}


def forget() -> None:
    """Empty the cache."""
    _remembered.clear()


def rates_of(replicas: Iterable[Replica], *, confidence: float, rows: MeasuredRows) -> dict[Replica, Answers]:
    """The estimates of each replica for each of its classes, each served alone.

    They are cached, because every turn rebuilds its question to see whether it changed, mostly with the same replicas. A turn
    of the example at rest took 0.8 s of processor time without the cache, and takes 0.03 s with it.

    Args:
        confidence: the probability that a true rate is at least the planned one.
        rows: the measurements that correct the formulas.
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
    made, classes, learned = replica
    found = unlimited(made, classes, confidence=confidence, rows=rows)
    floor_seconds = first_token_seconds(made.settings, made.model)
    return Unlimited(found, classes, made.steps, floor_seconds, learned, confidence)
