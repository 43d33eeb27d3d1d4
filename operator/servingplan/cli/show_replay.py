"""What a replay found, as tables, and what to know about its trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from servingplan.cli.show_course import show_course

Json = dict[str, Any]


def remarks(trace: Json) -> Iterator[str]:
    """What was repaired in a trace, and what no class covers."""
    if trace["bad_rows"]:
        told = "; ".join(trace["bad_examples"])
        yield f"{_rows(trace['bad_rows'], 'was', 'were')} left out for want of a request, such as: {told}"
    if trace["sorted_rows"]:
        yield f"{_rows(trace['sorted_rows'], 'was', 'were')} out of order by time and sorted"
    if trace["late_rows"]:
        late = _rows(trace["late_rows"], "was", "were")
        yield f"{late} too far out of order to be sorted, and arrived with the row before"
    for model, count in trace["uncovered"].items():
        share = count / trace["requests"]
        yield f"{count} requests ({share:.1%}) match no class of {model} and went to its default class"
    foreign = trace["other_models"]
    if foreign:
        names = ", ".join(f"{count} to {name!r}" for name, count in list(foreign.items())[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        yield f"requests to models that the plan does not have went to the one that stands in: {names}{more}"


def show_replay(result: Json) -> None:
    """Print the fleets, their classes, the replicas of the first one, and the course of each that has one."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from servingplan.cli.show import console

    trace = result["trace"]
    lines = [f"{trace['requests']} requests in {trace['seconds']:.0f} s ({trace['format']})"]
    fleets = Table(box=SIMPLE_HEAD, title_justify="left", title="Fleets")
    found_again = any(item["prefix_hit_share"] for item in result["fleets"])
    headings = ("fleet", "$/h", "$", "$/M tokens", "requests/s", "tokens/s", "in time", "GPUs busy")
    for heading in (*headings, *(["prompts in cache"] if found_again else [])):
        fleets.add_column(heading, justify="left" if heading == "fleet" else "right")
    for item in result["fleets"]:
        fleets.add_row(
            item["name"],
            f"{item['dollars_per_hour']:.2f}",
            f"{item['dollars']:.2f}",
            _number(item["dollars_per_million_tokens"], ".3f"),
            _number(item["requests_per_second"], ".4g"),
            _number(item["tokens_per_second"], ".4g"),
            _number(item["in_time_share"], ".1%"),
            _number(item["utilization"], ".1%"),
            *([_number(item["prefix_hit_share"], ".1%")] if found_again else []),
        )
    classes = Table(box=SIMPLE_HEAD, title_justify="left", title="Classes, times in seconds")
    times = ("TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "whole p50", "p95", "p99")
    for heading in ("fleet", "class", "requests/s", "planned", "not served", "in time", "promised", *times):
        classes.add_column(heading, justify="left" if heading in ("fleet", "class") else "right")
    for item in result["fleets"]:
        for found in item["classes"]:
            told = [
                _number(found[field].get(percentile), ".3g")
                for field in ("ttft_seconds", "tpot_seconds", "end_to_end_seconds")
                for percentile in ("p50", "p95", "p99")
            ]
            classes.add_row(
                item["name"],
                f"{found['model']}/{found['name']}",
                _number(found["requests_per_second"], ".4g"),
                f"{found['planned_requests_per_second']:.4g}",
                str(found["turned_away"] + found["too_long"] + found["cut"]),
                _number(found["in_time_share"], ".1%"),
                f"{found['promised_share']:.0%}",
                *told,
            )
    replicas = Table(box=SIMPLE_HEAD, title_justify="left", title="Replicas of the plan")
    for heading in ("model", "pool", "GPU", "GPUs", "copies", "requests", "busy", "KV at most", "preempted"):
        replicas.add_column(heading, justify="left" if heading in ("model", "pool", "GPU") else "right")
    for found in result["fleets"][0]["replicas"]:
        replicas.add_row(
            found["model"],
            found["pool"],
            found["gpu"],
            str(found["gpus"]),
            str(found["copies"]),
            str(found["requests"]),
            _number(found["utilization"], ".1%"),
            f"{found['kv_peak']:.1%}",
            str(found["preemptions"]),
        )
    shown = console()
    shown.print("\n".join(lines), markup=False)
    for table in (fleets, classes, replicas):
        shown.print(table)
    for line in result["fleets"][0]["events"]:
        shown.print(line, markup=False)
    for item in result["fleets"]:
        if "course" in item:
            show_course(item["course"], shown)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _rows(count: int, one: str, more: str) -> str:
    return f"1 row {one}" if count == 1 else f"{count} rows {more}"
