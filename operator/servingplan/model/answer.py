"""The answer to a planning question: a plan, what it costs, how good it is known to be, and why.

Place in the flow: observe -> **model** -> solve -> render -> apply -> status. The field names are the JSON keys that
`servingplan solve -o json` prints. Read with `answer_from_json`, written with `answer_json`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from servingplan.model.question import Count, Counts, Name, Value, sorted_by_key, validated

Status = Literal["Optimal", "Feasible", "Infeasible"]
Stopped = Literal["proved", "work-limit", "deadline"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ClassRates = Annotated[Mapping[Name, Finite], AfterValidator(sorted_by_key)]


class Placement(Value):
    """Nodes of one pool with like content."""

    pool: Name
    """Pool of the nodes."""
    nodes: Count
    """How many nodes."""
    replicas: Counts = Field(default_factory=dict)
    """Replicas on all of these nodes together, by shape. Shapes that fit a node are spread evenly over the group's nodes;
    a shape that takes whole nodes has a group of its own. Empty: nodes that are paid but not used."""


class Level(Value):
    """One level of the lexicographic objective."""

    name: str
    """`scale`, `served-fraction/priority=P`, `served-total/priority=P`, `dollars`, `moves`."""
    value: Finite
    """Value of this plan: a multiple, a fraction, requests/s, $/h or a count, by `name`."""
    bound: Finite
    """Best value that any plan could have, given the levels before."""
    gap: Finite
    """`|bound - value| / max(|bound|, |value|)`; 0 when both are 0."""
    proved: bool
    """Whether the gap is within the asked tolerance."""


class Answer(Value):
    """A plan with its proof, or why there is none."""

    version: Literal[1] = 1
    """Version of this document."""
    status: Status
    """Optimal: every level is proved within the tolerance. Feasible: a plan, not proved. Infeasible: none, see `reasons`."""
    method: str
    """Name of the method that found the plan."""
    objective: Finite | None = None
    """`scale` under `MaximizeService`, `dollars_per_hour` under `MinimizeCost`; absent when infeasible."""
    bound: Finite | None = None
    """Bound of the first level that is not proved; of the objective itself when all are."""
    gap: Finite | None = None
    """Gap of that level; see `Level.gap`."""
    seconds: Finite = 0.0
    """Wall-clock seconds spent; the only field that differs between two runs."""
    stopped: Stopped = "proved"
    """Why the search ended: proved, a deterministic work limit, or the clock."""
    scale: Finite | None = None
    """Multiple of the mix that is served; only under `MaximizeService`. The makespan of Jiang et al. is 1/scale."""
    dollars_per_hour: Finite | None = None
    """Price of all nodes, each paid whole."""
    startup_dollars: Finite | None = None
    """One-off cost of starting the added replicas: start-up hours x price share of their GPUs; only with `running`."""
    nodes: Counts = Field(default_factory=dict)
    """Nodes by pool, every pool of the question listed."""
    replicas: Counts = Field(default_factory=dict)
    """Copies by shape, shapes without copies left out."""
    placements: Annotated[tuple[Placement, ...], Field(strict=False)] = ()
    """Which replicas share nodes; covers every node."""
    rates: Annotated[Mapping[Name, ClassRates], AfterValidator(sorted_by_key)] = Field(default_factory=dict)
    """Requests/s of each class sent to all copies of each shape."""
    unserved: ClassRates = Field(default_factory=dict)
    """Requests/s of each class that is not served in full; only under `MinimizeCost`."""
    binding: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What stops the plan from serving more: `budget`, `pool:NAME`, `max_copies:SHAPE`, `quality:CLASS`."""
    levels: Annotated[tuple[Level, ...], Field(strict=False)] = ()
    """All levels of the objective, in order."""
    reasons: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Infeasible: what binds and the smallest change that would do. Otherwise remarks, e.g. why the running plan is kept."""


ALWAYS_SHOWN = frozenset({"version", "status", "method", "seconds", "stopped"})
SHOWN_WITH_A_PLAN = frozenset({"nodes", "replicas", "placements", "rates", "unserved", "binding"})


def answer_from_json(text: str | bytes) -> Answer:
    """Read an answer file; raises `QuestionError` with one line per fault."""
    return validated(Answer, text)


def answer_json(answer: Answer) -> str:
    """The answer as JSON text in field order, absent fields left out; equal answers give equal text."""
    shown = ALWAYS_SHOWN | (SHOWN_WITH_A_PLAN if answer.status != "Infeasible" else frozenset())
    full = answer.model_dump(mode="json")
    data = {key: value for key, value in full.items() if key in shown or (value is not None and value not in ([], {}))}
    return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
