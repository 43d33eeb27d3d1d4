"""P1's table 7: what planning again brings after cards are lost, and after the mix has shifted, with the move charged.

The paper charges no move. Here a replica that is new starts `START_SECONDS` before it serves; until then the old fleet serves,
in its best routing, and the new cards are paid beside it. The stock of the table and the size of its surge are not printed, so
these are ours: availability 4, and twenty of each hundred requests, drawn evenly from the types with long answers, become
requests with short answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from papers.p1.instance import DOLLARS_PER_HOUR, STOCK, question_with
from papers.page import header, marks, measured, row
from servingplan.model.answer import Answer
from servingplan.model.question import Question, Running
from servingplan.replay.mixes import LENGTHS, MIXES
from servingplan.solve import solve

PAPER = "P1-replanning"
MIX, AVAILABILITY = "T2", 4
BUDGETS_DOLLARS_PER_HOUR = (30.0, 60.0)
LOST = ("H100-SXM-80GB", 4)
"""The cards that are lost, or all of that type if the fleet has fewer."""
SHIFTED_PERCENT = 20
START_SECONDS = 150.0
"""The time from the order of a card until a replica on it serves: 90 s for the node and 60 s for the engine, which are the
defaults of `servingplan replay --operator`."""
HOUR_SECONDS = 3600.0
GAP, DEADLINE_SECONDS = 1e-3, 60.0


@dataclass(frozen=True)
class Event:
    """What happened to one fleet, in requests/s of the whole mix."""

    name: str
    budget_dollars_per_hour: float
    before: float
    unrouted: float | None
    """With the old fleet in its old routing; None after a loss, for which the paper does not say what serves on."""
    kept: float
    """With the old fleet's cards that are left, routed anew."""
    planned: float
    """With the fleet that is planned again."""
    started_gpus: int
    first_hour: float
    """The mean of the hour after the event: `kept` while the new replicas start, then `planned`."""
    move_dollars: float
    """What the new cards cost until they serve."""


def shifted(percent: Sequence[int]) -> tuple[float, ...]:
    """The mix after the surge of short answers."""
    shortest = min(tokens_out for _, tokens_out in LENGTHS)
    short = [tokens_out == shortest for _, tokens_out in LENGTHS]
    long = sum(part for part, is_short in zip(percent, short, strict=True) if not is_short)
    moved = min(SHIFTED_PERCENT, long)
    return tuple(
        part + moved / sum(short) if is_short else part * (1 - moved / long)
        for part, is_short in zip(percent, short, strict=True)
    )


def events(budget: float) -> list[Event]:
    """Both events of the table at one budget."""
    stock = dict(zip(DOLLARS_PER_HOUR, STOCK[AVAILABILITY], strict=True))
    begun = question_with("70B", MIX, budget, stock)
    fleet = _solved(begun)
    rented = fleet.nodes.get(LOST[0], 0)
    lost = min(LOST[1], rented)
    name = f"{lost} of {rented} H100 lost"
    fewer = {**stock, LOST[0]: stock[LOST[0]] - lost}
    mix = zip(begun.classes, shifted(MIXES[MIX]), strict=True)
    surged = tuple(cls.model_copy(update={"requests_per_second": percent / 100}) for cls, percent in mix)
    return [
        _event(name, budget, fleet, question_with("70B", MIX, budget, fewer), lost=lost),
        _event(
            f"{SHIFTED_PERCENT} % more short answers",
            budget,
            fleet,
            begun.model_copy(update={"classes": surged}),
            lost=0,
        ),
    ]


def _event(name: str, budget: float, fleet: Answer, question: Question, *, lost: int) -> Event:
    """What is left of a fleet for a question, and what planning again brings."""
    nodes = {**fleet.nodes, LOST[0]: fleet.nodes.get(LOST[0], 0) - lost}
    pools = tuple(pool.model_copy(update={"max_nodes": nodes.get(pool.name, 0)}) for pool in question.pools)
    shapes = tuple(
        shape.model_copy(update={"max_copies": fleet.replicas[shape.name]})
        for shape in question.shapes
        if fleet.replicas.get(shape.name)
    )
    left = _solved(question.model_copy(update={"pools": pools, "shapes": shapes}))
    running = Running(nodes=dict(left.nodes), replicas=dict(left.replicas))
    planned = _solved(question.model_copy(update={"running": running}))
    sizes = {shape.name: sum(shape.gpus.values()) for shape in question.shapes}
    started = {name: count - left.replicas.get(name, 0) for name, count in planned.replicas.items()}
    more = {name: count - left.nodes.get(name, 0) for name, count in planned.nodes.items()}
    part = START_SECONDS / HOUR_SECONDS if any(count > 0 for count in started.values()) else 0.0
    return Event(
        name=name,
        budget_dollars_per_hour=budget,
        before=_scale(fleet),
        unrouted=None if lost else _in_old_routing(fleet, question),
        kept=_scale(left),
        planned=_scale(planned),
        started_gpus=sum(sizes[name] * count for name, count in started.items() if count > 0),
        first_hour=part * _scale(left) + (1 - part) * _scale(planned),
        move_dollars=part * sum(DOLLARS_PER_HOUR[name] * count for name, count in more.items() if count > 0),
    )


def _in_old_routing(fleet: Answer, question: Question) -> float:
    """The largest multiple of the question's mix at which no replica has more than it can serve, if each class is divided among
    the replicas as before."""
    scales = []
    for shape in question.shapes:
        load = 0.0
        for cls in question.classes:
            rates = fleet.rates.get(cls.name, {})
            if rates.get(shape.name):
                part = rates[shape.name] / sum(rates.values())
                load += part * cls.requests_per_second / shape.requests_per_second[cls.name]
        if load > 0:
            scales.append(fleet.replicas[shape.name] / load)
    return min(scales)


def _solved(question: Question) -> Answer:
    return solve(question, method="exact", relative_gap=GAP, deadline_seconds=DEADLINE_SECONDS, why_infeasible=False)


def _scale(answer: Answer) -> float:
    """Requests/s of the whole mix, whose shares add up to 1."""
    return answer.scale or 0.0


def part(budgets: Sequence[float] = BUDGETS_DOLLARS_PER_HOUR) -> str:
    """The part of `docs/papers.md`."""
    begin, end = marks(PAPER)
    found = [event for budget in budgets for event in events(budget)]
    lines = [
        begin,
        _INTRODUCTION,
        f"{measured()}; plans within {GAP:.1%}.",
        "",
        *header(
            (
                "$/h",
                "event",
                "before",
                "old routing",
                "old fleet",
                "planned again",
                "gain",
                "GPUs started",
                "gain, first hour",
                "move, $",
            )
        ),
        *(
            row(
                (
                    f"{event.budget_dollars_per_hour:g}",
                    event.name,
                    f"{event.before:.2f}",
                    "" if event.unrouted is None else f"{event.unrouted:.2f}",
                    f"{event.kept:.2f}",
                    f"{event.planned:.2f}",
                    _gain(event.planned, event.kept),
                    event.started_gpus,
                    _gain(event.first_hour, event.kept),
                    f"{event.move_dollars:.2f}",
                )
            )
            for event in found
        ),
        row(("30", "paper: 4 H100 lost", "26.89", "", "20.80", "22.85", "10 %", "", "", "")),
        row(("30", "paper: surge of short answers", "26.89", "", "23.70", "29.61", "25 %", "", "", "")),
        "",
        end,
    ]
    return "\n".join(lines)


def _gain(new: float, old: float) -> str:
    return "from nothing" if old <= 0 < new else f"{new / old - 1:.0%}" if old else ""


_INTRODUCTION = """## P1: planning again (table 7)

Llama-3.1-70B, T2, requests/s of the whole mix. After the event the old fleet serves what is left of it can: in its old
routing, and in the best one. Then the plan is made again, with the fewest changes among equal plans; gains are over the best
routing of the old fleet. The paper charges no move. Here a replica that is new starts 150 s before it serves, the old fleet
serves meanwhile, and the new cards are paid meanwhile. The paper prints neither the stock nor the surge: here they are
availability 4, and a fifth of the requests that move from long answers to short ones. Its 26.89 requests/s at 30 $/h are twice
what its figure 5 shows there (above); with the profiles here they fit that budget. Most of what it gains after a surge is here
gained by routing alone.
"""
