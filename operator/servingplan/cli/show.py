"""Shows a decision as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, override

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet, PipelineStage, ReplicaSet
from servingplan.model.transition import Transition
from servingplan.planning import words
from servingplan.status.steps import step_lines

if TYPE_CHECKING:
    from servingplan.model.answer import Answer, Explanation
    from servingplan.planning.explain import Explained  # loads the solver


_LEAST_WIDTH, _MOST_WIDTH = 80, 10_000


class _Piped(Console):
    """A console as wide as its content: a file or another program has no edge at which lines must be cut."""

    @override
    def print(self, *objects: Any, **how: Any) -> None:
        options = self.options.update(width=_MOST_WIDTH)
        renderables = (self.render_str(item) if isinstance(item, str) else item for item in objects)
        widest = max((Measurement.get(self, options, item).maximum for item in renderables), default=0)
        self.width = max(_LEAST_WIDTH, widest)
        super().print(*objects, **how)


def console(*, stderr: bool = False) -> Console:
    """Plain and as wide as its content when it is not a terminal."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else _Piped(stderr=stderr, highlight=False)


def decision_view(
    decision: Decision, *, budget_dollars_per_hour: float, steps: Transition | None = None, live: bool
) -> RenderableType:
    """The view of a decision: its plan, the steps that lead to it, and its findings. ``live``: it was made for a cluster that
    was seen, and not for the plan alone."""
    parts: list[RenderableType] = []
    fleet = decision.fleet or decision.waiting
    if fleet is not None:
        parts.append(fleet_view(fleet, budget_dollars_per_hour=budget_dollars_per_hour))
    if steps is not None:
        parts.append(steps_view(steps, live=live))
    for finding in decision.findings:
        parts.append(Text(f"{finding.condition}: {finding.reason}: {finding.message}", style="yellow"))
    return Group(*parts)


def steps_view(steps: Transition, *, live: bool = True) -> RenderableType:
    """The steps of a transition, one line each."""
    begin = "the live fleet" if live else "a cluster where nothing of the plan runs"
    return Text("\n".join([f"Steps from {begin}", *(f"  {line}" for line in step_lines(steps)), ""]))


def fleet_view(
    fleet: Fleet, *, budget_dollars_per_hour: float, ready: Mapping[str, int] | None = None
) -> RenderableType:
    """The view of a plan: replicas, nodes and classes; with ``ready`` also the number of ready replicas."""
    replicas = Table(box=SIMPLE_HEAD, title_justify="left", title="Replicas")
    for name in ("model", "variant", "pool", "GPU", "TP", "PP", "copies", "requests/s", "rates from"):
        replicas.add_column(name, justify="right" if name in ("TP", "PP", "copies", "requests/s") else "left")
    if ready is not None:
        replicas.add_column("ready", justify="right")
    for item in sorted(fleet.replica_sets, key=_by_shape):
        row = [
            item.model,
            item.variant,
            _stages(item, lambda stage: stage.pool) or item.pool,
            _stages(item, lambda stage: stage.gpu) or item.gpu,
            str(item.tensor_parallel),
            str(item.pipeline_parallel),
            str(item.replicas),
            f"{sum(item.planned.values()):.3g}",
            item.rates_from,
        ]
        if ready is not None:
            row.append(f"{ready.get(item.deployment, 0)}/{item.replicas}")
        replicas.add_row(*row)
    nodes = Table(box=SIMPLE_HEAD, title_justify="left", title="Nodes")
    nodes.add_column("pool")
    nodes.add_column("nodes", justify="right")
    nodes.add_column("content of each node")
    for pool, count in sorted(fleet.nodes.items()):
        groups = [group for group in fleet.groups if group.pool == pool]
        text = "; ".join(f"{group.nodes} x [{_content(fleet, group.replicas)}]" for group in groups)
        nodes.add_row(pool, str(count), Text(text))
    classes = Table(box=SIMPLE_HEAD, title_justify="left", title="Classes")
    classes.add_column("model")
    classes.add_column("class")
    classes.add_column("asked requests/s", justify="right")
    classes.add_column("planned requests/s", justify="right")
    for entry in fleet.classes:
        classes.add_row(
            entry.model, entry.name, f"{entry.requests_per_second:.4g}", f"{entry.planned_requests_per_second:.4g}"
        )
    gap = "unknown" if fleet.gap is None else f"{fleet.gap:.2%}"
    lines = [f"plan {fleet.hash}: {fleet.dollars_per_hour:.2f} $/h of {budget_dollars_per_hour:.2f} $/h"]
    if fleet.scale is not None:
        lines.append(f"serves {fleet.scale:.4g} times the mix")
    if fleet.confidence is not None:
        lines.append(
            f"true rates reach the planned ones with probability {fleet.confidence:g}; bands contain 80 % of them"
        )
    lines.append(f"{fleet.status} by {fleet.method}, gap {gap}, stopped: {fleet.stopped}")
    if fleet.binding:
        lines.append(f"limited by: {', '.join(fleet.binding)}")
    return Group(Text("\n".join(lines)), replicas, nodes, classes)


def _stages(item: ReplicaSet, word: Callable[[PipelineStage], str]) -> str:
    """One word per run of equal stages of a replica that spans nodes, for example ``a100 x 2, l40s``."""
    runs = ((text, len(list(run))) for text, run in groupby(map(word, item.stages)))
    return ", ".join(f"{text} x {count}" if count > 1 else text for text, count in runs)


def _content(fleet: Fleet, replicas: Mapping[str, int]) -> str:
    words = []
    for item in sorted(fleet.replica_sets, key=_by_shape):
        if item.deployment in replicas:
            shape = f"TP{item.tensor_parallel}" + (f"xPP{item.pipeline_parallel}" if item.pipeline_parallel > 1 else "")
            count = "part of" if item.stages else f"{replicas[item.deployment]} x"
            words.append(f"{count} {item.model} {shape}")
    return ", ".join(words)


def _by_shape(item: ReplicaSet) -> tuple[str, str, str, int, int, str]:
    """The order in which replicas are shown. Names end in a digest, whose order says nothing and changes with the version."""
    return (item.model, item.variant, item.pool, item.tensor_parallel, item.pipeline_parallel, item.deployment)


def explanation_view(found: Explained, *, problems: tuple[str, ...], in_force: str | None) -> RenderableType:
    """The view of an explanation: the limits of the best plan now, the alternatives, what was left out."""
    parts: list[RenderableType] = [Text(problem, style="yellow") for problem in problems]
    answer = found.answer
    if answer is not None:
        lines = [f"best plan now: {words.outcome(answer)}", *([in_force] if in_force else [])]
        if answer.binding:
            lines.append(f"limited by: {', '.join(answer.binding)}")
        parts.append(Text("\n".join(lines)))
    parts.append(reasons_view(found.explanation, answer, len(found.question.shapes) if found.question else 0))
    return Group(*parts)


def reasons_view(explanation: Explanation, answer: Answer | None, shapes: int) -> RenderableType:
    """Limits that exclude each other, the worth of one more unit of each, alternatives, and the shapes that were left out."""
    parts: list[RenderableType] = []
    if explanation.clash is not None:
        parts.append(Text("\n" + words.conflict_title(explanation.clash)))
        parts += [Text(f"  {line}") for line in words.conflict_lines(explanation.clash)]
    if answer is not None and explanation.worth:
        table = Table(box=SIMPLE_HEAD, title_justify="left", title="What one more unit is worth")
        table.add_column("one more unit")
        table.add_column("brings")
        for what_if in explanation.worth:
            table.add_row(words.one_more(what_if), words.gain(what_if, answer))
        parts.append(table)
    if explanation.alternatives:
        table = Table(box=SIMPLE_HEAD, title_justify="left", title="Alternatives")
        table.add_column("alternative")
        table.add_column("outcome")
        for what_if in explanation.alternatives:
            table.add_row(what_if.name, words.outcome(what_if.answer))
        parts.append(table)
    if explanation.pruned:
        parts.append(Text(words.pruned(explanation.pruned, shapes)))
    if explanation.not_asked:
        parts.append(Text(f"{explanation.not_asked} more questions were left out for lack of time"))
    return Group(*parts)
