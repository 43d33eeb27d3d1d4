"""The answer to a planning question: a plan, what it costs, how good it is known to be, and why.

Place in the flow: observe -> **model** -> solve -> render -> apply -> status. The field names are the JSON keys that
`servingplan solve -o json` prints. Read with `answer_from_json`, written with `answer_json`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from servingplan.model.goal import Goal
from servingplan.model.question import Count, Counts, Name, Value, sorted_by_key, validated

Status = Literal["Optimal", "Feasible", "Infeasible"]
Stopped = Literal["proved", "work-limit", "deadline"]
METHOD_NAMES = (
    "anytime", "exact", "binary-search", "knapsack", "gh", "agh", "homogeneous", "uniform-composition", "uniform-deployment",
    "round-robin", "melange", "lpr", "dvr", "greedy-cost",
)  # fmt: skip
"""Every method of the planner, in the order in which they are listed."""
DEFAULT_GAP = 1e-4
"""Relative gap within which a level counts as proved, where nothing else is asked."""
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
    """The name of its goal: `scale`, `served-fraction/priority=P`, `served-total/priority=P`, `dollars`, `moves`."""
    value: Finite
    """Value of this plan: a multiple, a fraction, requests/s, $/h or a count, by `name`."""
    bound: Finite
    """Best value that any plan could have, given the levels before."""
    gap: Finite
    """`|bound - value| / max(|bound|, |value|)`; 0 when both are 0."""
    proved: bool
    """Whether the gap is within the asked tolerance."""

    @property
    def goal(self) -> Goal:
        """What it is the value of."""
        return Goal.named(self.name)


class Ease(Value):
    """One of the limits that exclude each other, and the smallest change of it that would do."""

    limit: Name
    """`budget`, `pool:NAME` (max_nodes), `floor:NAME` (min_nodes), `quota:NAME` (max_gpus), `max_copies:SHAPE`,
    `quality:CLASS`, `survive:EVENT` (min_priority), `class:NAME` (requests_per_second)."""
    now: Finite
    """Its value in the question, in the unit of its field."""
    needed: Finite | None = None
    """The value nearest to it with which all other limits can stay as they are; absent where no change of it alone does."""
    known: bool = True
    """Whether `needed`, or that there is none, is proved; False where a search was cut short."""


class Clash(Value):
    """Limits that exclude each other: with all others dropped there is still no plan."""

    goal: Literal["any plan", "full service"]
    """What cannot be had: any plan at all, or one that serves every class in full."""
    guarantee: Literal["smallest", "irreducible", "clash"]
    """smallest: no fewer limits exclude each other. irreducible: each of them is needed for that. clash: they do exclude each
    other, but some may not be needed for that, since the search was cut short."""
    limits: Annotated[tuple[Ease, ...], Field(strict=False)]
    """The limits, in the order of their kinds."""


class WhatIf(Value):
    """The same question with some limits changed, and its answer."""

    name: str
    """`budget`, `pool:NAME` and so on: one more unit of that limit. Otherwise the name of an alternative."""
    change: Annotated[Mapping[Name, Finite], AfterValidator(sorted_by_key)]
    """New value by limit, named as in `Ease`; `slo-percent`: by how much all latency limits are looser."""
    level: str | None = None
    """First level of the objective that may differ; absent where all are the same. Only where one unit is asked about."""
    gain: Finite = 0.0
    """By how much that level is better, in its own unit; never below 0."""
    at_most: Finite = 0.0
    """The largest gain that the bounds of both answers leave possible."""
    distinguishable: bool = True
    """Whether the gain, or that there is none, is beyond doubt: larger than the gaps of both answers."""
    answer: "Answer"
    """Answer to the changed question, found from scratch: what runs does not hold it back."""


class Explanation(Value):
    """Why the plan is as it is."""

    worth: Annotated[tuple[WhatIf, ...], Field(strict=False)] = ()
    """What one more unit of each limit brings: $/h of budget, a node of a pool, a copy, 1 % of a quality limit."""
    alternatives: Annotated[tuple[WhatIf, ...], Field(strict=False)] = ()
    """Two or three other questions that a person might ask, with their answers."""
    not_asked: Count = 0
    """How many of these questions were left out, for want of time."""
    pruned: Counts = Field(default_factory=dict)
    """Shapes that were dropped before the search, by reason."""
    clash: Clash | None = None
    """Infeasible: why there is no plan. Otherwise why not every class is served in full; absent where all are."""


class Answer(Value):
    """A plan with its proof, or why there is none."""

    version: Literal[1] = 1
    """Version of this document."""
    status: Status
    """Optimal: every level is proved within the tolerance. Feasible: a plan, not proved. Infeasible: none, see `reasons`."""
    method: str
    """Name of the method that found the plan, one of `METHOD_NAMES`."""
    objective: Finite | None = None
    """`scale` under `MaximizeService`, `dollars_per_hour` under `MinimizeCost`; absent when infeasible."""
    bound: Finite | None = None
    """Bound of the first level that is not proved; of the objective itself when all are."""
    gap: Finite | None = None
    """Gap of that level; see `Level.gap`."""
    relative_gap: Finite = DEFAULT_GAP
    """Gap within which a level counts as proved, as it was asked for; service levels of `MinimizeCost`: at most 1e-6."""
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
    """What stops the plan from serving more: `budget`, `pool:NAME`, `quota:NAME`, `max_copies:SHAPE`, `quality:CLASS`."""
    levels: Annotated[tuple[Level, ...], Field(strict=False)] = ()
    """All levels of the objective, in order."""
    reasons: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Infeasible: what binds and the smallest change that would do. Otherwise remarks, e.g. why the running plan is kept."""
    explanation: Explanation | None = None
    """Why the plan is as it is, where that was asked for; why there is none, always."""


ALWAYS_SHOWN = frozenset({"version", "status", "method", "seconds", "stopped"})
SHOWN_WITH_A_PLAN = frozenset({"nodes", "replicas", "placements", "rates", "unserved", "binding"})


def answer_from_json(text: str | bytes) -> Answer:
    """Read an answer file; raises `QuestionError` with one line per fault."""
    return validated(Answer, text)


def answer_json(answer: Answer) -> str:
    """The answer as JSON text in field order, absent fields left out; equal answers give equal text."""
    shown = ALWAYS_SHOWN | (SHOWN_WITH_A_PLAN if answer.status != "Infeasible" else frozenset())
    full = answer.model_dump(mode="json", exclude_none=True)
    data = {key: value for key, value in full.items() if key in shown or (value not in ([], {}))}
    return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
