"""The course of a rehearsal as tables: what the operator did, and what became of the requests meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]


def show_course(course: Json, shown: Console) -> None:
    """Print the phases, the requests that were not served, and the steps of the operator."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    phases = Table(box=SIMPLE_HEAD, title_justify="left", title="The operator: before, during and after each event")
    for heading in ("phase", "event", "from s", "to s", "class", "requests", "in time", "429", "503", "cut"):
        left = heading in ("phase", "event", "class")
        phases.add_column(heading, justify="left" if left else "right", overflow="fold")
    for phase in course["phases"]:
        for item in phase["classes"]:
            phases.add_row(
                phase["phase"],
                phase["event"],
                f"{phase['from']:g}",
                f"{phase['to']:.0f}",
                item["class"],
                str(item["arrived"]),
                "" if item["in_time_share"] is None else f"{item['in_time_share']:.1%}",
                *(str(item[field]) for field in ("status_429", "status_503", "cut")),
            )
    steps = Table(box=SIMPLE_HEAD, title_justify="left", title="The operator: steps")
    for heading in ("at s", "what"):
        steps.add_column(heading, justify="left" if heading == "what" else "right", overflow="fold")
    for step in course["steps"]:
        steps.add_row(f"{step['at']:g}", step["what"])
    for table in (phases, *([steps] if course["steps"] else [])):
        shown.print(table, markup=False)
    for item in course["timeline"]:
        for name, unserved in item["unserved"].items():
            told = ", ".join(f"{count} x {status}" for status, count in unserved.items() if count)
            shown.print(f"from {item['at']:g} s: {name}: {told}", markup=False)
    spend = ", ".join(f"{item['dollars_per_hour']:.2f} from {item['at']:g} s" for item in course["spend"])
    shown.print(f"paid $/h: {spend}", markup=False)
    budget, most = course["budget_dollars_per_hour"], course["most_dollars_per_hour"]
    shown.print(f"at most {most:.2f} $/h were asked for, of a budget of {budget:.2f}", markup=False)
