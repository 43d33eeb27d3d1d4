"""Shows a live plan as tables: its status, its rates of the moment, a proposal, its history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from servingplan.model.proposal import Proposal
from servingplan.status.steps import step_lines

Json = dict[str, Any]


def status_view(plan: Json) -> RenderableType:
    """The view of a plan object: its state in words, and its replicas, pools and classes with what is ready."""
    status = plan.get("status") or {}
    if status.get("observedGeneration", -1) < 0:  # which the API server fills in
        namespace = plan["metadata"]["namespace"]
        return Text(
            f"no operator has read this plan yet; servingplan doctor -n {namespace} says whether one manages its namespace"
        )
    deployments = status.get("deployments") or ()
    replicas = _table(
        "Replicas",
        ("model", "variant", "pool", "GPU", ">TP", ">PP", ">ready", ">s to start", ">requests/s", "rates from"),
        (
            (
                item["model"],
                item["variant"],
                item["pool"],
                item["gpu"],
                item["tensorParallel"],
                item["pipelineParallel"],
                f"{item['ready']}/{item['replicas']}",
                item.get("startSeconds", "-"),
                item["requestsPerSecond"],
                item["profile"],
            )
            for item in deployments
        ),
    )
    pools = _table(
        "Nodes",
        ("pool", "GPU", ">planned", ">asked for", ">ready", ">idle GPUs", ">$/h of a node", "known to give"),
        (
            (
                item["name"],
                item["gpu"],
                item["planned"],
                item["wanted"],
                item["ready"],
                item.get("idleGPUs", 0),
                item["dollarsPerNodeHour"],
                _cap(item.get("learnedCap")),
            )
            for item in status.get("nodePools") or ()
        ),
    )
    return Group(Text("\n".join(_lines(plan))), replicas, *_observed(deployments), pools, _classes(status))


def _observed(deployments: Iterable[Json]) -> list[Table]:
    """What engines measured beside what the plan counts on; empty if nothing was observed."""
    rows = [
        (
            item["name"],
            found["requestsPerSecond"],
            *(_beside(found.get(name)) for name in ("ttftSeconds", "tpotSeconds")),
            *(found[f"{name}Factor"] for name in ("rate", "ttft", "tpot")),
            found.get("refused") or "",
        )
        for item in deployments
        if (found := item.get("learned")) is not None
    ]
    columns = ("", ">requests/s of one", ">TTFT s (predicted)", ">TPOT s (predicted)", ">rate x", ">TTFT x", ">TPOT x")
    return [_table("Observed, and learned from it", (*columns, "not learned from"), rows)] if rows else []


def _beside(latency: Json | None) -> str:
    return "-" if latency is None else f"{latency['observed']} ({latency['predicted']})"


def _lines(plan: Json) -> list[str]:
    """The state of a plan in words, one line each."""
    metadata, status = plan["metadata"], plan["status"]
    cost = status.get("cost") or {}
    lines = [f"plan {metadata['namespace']}/{metadata['name']}: {status.get('planHash') or 'none in force'}"]
    lines[0] += f", mode {status.get('mode', 'unknown')}"
    if (since := metadata.get("deletionTimestamp")) is not None:
        left = (status.get("retirement") or {}).get("left") or ["its operator"]
        lines.append(f"is being deleted since {since}, waits for {', '.join(left)}")
        lines.append(f"where no operator runs: servingplan uninstall -n {metadata['namespace']} does its work")
    elif status.get("observedGeneration") != metadata.get("generation"):
        lines.append("the operator has not read the last edit yet")
    ready = next((item for item in status.get("conditions") or () if item["type"] == "Ready"), None)
    if ready is not None:
        word = "ready" if ready["status"] == "True" else f"not ready, {ready['reason']}"
        lines.append(f"{word}: {ready['message']}")
    if cost:
        spend, planned = cost.get("spendPerHour"), cost.get("perHour")
        lines.append(f"spend {spend} $/h, plan {planned} $/h, budget {cost.get('budgetPerHour')} $/h")
    if status.get("unanswered") not in (None, "none"):
        lines.append(f"answered with 503: {status['unanswered']}")
    if step := status.get("transition"):
        takes = f", about {step['seconds']} s" if step.get("seconds") is not None else ""
        lines.append(
            f"step {step['step']} of {step['of']}, waiting since {step['since']} for {step['waitingFor']}: then "
            f"{step['dollarsPerHour']} $/h{takes}"
        )
    if proposed := status.get("proposed"):
        dollars = proposed["dollarsPerHour"]
        lines.append(
            f"plan {proposed['hash']} waits: {dollars['before']} to {dollars['after']} $/h; servingplan approve "
            f"{metadata['name']} -n {metadata['namespace']} shows and approves it"
            if status.get("mode") == "Approve"
            else f"plan {proposed['hash']} is only shown: {dollars['before']} to {dollars['after']} $/h"
        )
    return lines


def _classes(status: Json) -> Table:
    return _table(
        "Classes",
        ("model", "class", ">asked requests/s", ">planned", ">observed", ">carried now", "in time"),
        (
            (
                item["model"],
                item["name"],
                item["requestsPerSecond"],
                item["plannedRequestsPerSecond"],
                item.get("observedRequestsPerSecond") or "-",
                item["servedRequestsPerSecond"],
                _yes(item.get("inTime")),
            )
            for item in status.get("classes") or ()
        ),
    )


def top_view(plan: Json) -> RenderableType:
    """The view of what the classes get now, and of the dollars."""
    status = plan.get("status") or {}
    return Group(
        Text("\n".join(_lines(plan)) if status else "the operator has not read this plan yet"),
        *_observed(status.get("deployments") or ()),
        _classes(status),
    )


def top_data(plan: Json) -> Json:
    """The same for programs."""
    metadata, status = plan["metadata"], plan.get("status") or {}
    cost = status.get("cost") or {}
    return {
        "version": 1,
        "plan": f"{metadata['namespace']}/{metadata['name']}",
        "plan_hash": status.get("planHash"),
        "dollars_per_hour": {
            "spend": cost.get("spendPerHour"),
            "plan": cost.get("perHour"),
            "budget": cost.get("budgetPerHour"),
        },
        "classes": [
            {
                "model": item["model"],
                "name": item["name"],
                "planned_requests_per_second": item["plannedRequestsPerSecond"],
                "observed_requests_per_second": item.get("observedRequestsPerSecond"),
                "served_requests_per_second": item["servedRequestsPerSecond"],
                "in_time": item.get("inTime"),
            }
            for item in status.get("classes") or ()
        ],
        "observed": {
            item["name"]: item["learned"] for item in status.get("deployments") or () if item.get("learned") is not None
        },
        "transition": status.get("transition"),
    }


def history_view(history: Sequence[Json]) -> RenderableType:
    """The view of the last plans that were taken into force."""
    if not history:
        return Text("no plan was taken into force yet")
    rows = ((item["time"], item["hash"], item["reason"], item["dollarsPerHour"], item["served"]) for item in history)
    return _table("Plans taken into force", ("time", "plan", "reason", ">$/h", ">served"), rows)


def proposal_view(found: Proposal) -> RenderableType:
    """The view of what a plan would change."""
    return _change(
        title=_title(found.hash, found.in_force),
        dollars=f"{found.dollars_per_hour_before:.2f} to {found.dollars_per_hour_after:.2f} $/h",
        objects=[
            (word, len(names), names)
            for word, names in (("created", found.created), ("changed", found.changed), ("removed", found.removed))
        ],
        classes=[(item.model, item.name, f"{item.before:.4g}", f"{item.after:.4g}") for item in found.classes],
        steps=step_lines(found.transition),
    )


def proposed_view(proposed: Json, *, plan_hash: str | None) -> RenderableType:
    """The same of ``status.proposed``."""
    dollars, objects = proposed["dollarsPerHour"], proposed["objects"]
    return _change(
        title=_title(proposed["hash"], plan_hash),
        dollars=f"{dollars['before']} to {dollars['after']} $/h",
        objects=[
            (word, objects[word]["count"], objects[word].get("names") or ())
            for word in ("created", "changed", "removed")
        ],
        classes=[
            (item["model"], item["name"], item["before"], item["after"]) for item in proposed.get("classes") or ()
        ],
        steps=proposed.get("steps") or [],
    )


def _title(proposed: str, in_force: str | None) -> str:
    return f"plan {proposed} instead of {in_force}" if in_force else f"plan {proposed}; none is in force"


def _change(
    *,
    title: str,
    dollars: str,
    objects: Sequence[tuple[str, int, Sequence[str]]],
    classes: Sequence[tuple[str, str, str, str]],
    steps: Sequence[str],
) -> RenderableType:
    rows = ((word, count, ", ".join(names) + (" ..." if count > len(names) else "")) for word, count, names in objects)
    parts: list[RenderableType] = [
        Text(f"{title}: {dollars}"),
        _table("Objects", ("", ">number", "names"), rows),
        _table("Classes", ("model", "class", ">requests/s before", ">after"), classes),
    ]
    if steps:
        parts.append(Text("\n".join(["Steps from the live fleet", *(f"  {line}" for line in steps), ""])))
    return Group(*parts)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table; columns that begin with ``>`` are numbers."""
    table = Table(box=SIMPLE_HEAD, title_justify="left", title=title)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    return table


def _cap(cap: Json | None) -> str:
    return "" if cap is None else f"{cap['nodes']} until {cap['until']} ({cap['reason']})"


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"
