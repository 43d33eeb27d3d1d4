"""Shows proposed classes as tables for people, as JSON, and in the form of a plan."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from servingplan.api.models_v1alpha1 import Match
from servingplan.classes.fit import Fit
from servingplan.classes.propose import Proposal
from servingplan.classes.tally import UNBOUNDED, Tally
from servingplan.classes.work import Bound


def in_plan(found: Proposal, chosen: int) -> list[dict[str, Any]]:
    """The classes in the form of ``models[].classes`` of a plan."""
    return [
        item.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for item in _declared(found, found.fits[chosen])
    ]


def _declared(found: Proposal, chosen: Fit) -> list[Any]:
    whole = sum(item.sums.requests for item in chosen.classes)
    rate = found.requests_per_second
    return [item.in_plan(rate * item.sums.requests / whole) for item in chosen.classes]


def as_data(kind: str, tally: Tally, found: Proposal, chosen: int, *, rate_known: bool) -> dict[str, Any]:
    """All figures as data for JSON."""
    sums = tally.sums
    fits = []
    for index, item in enumerate(found.fits):
        entry: dict[str, Any] = {
            "classes": len(item.classes),
            "workPlannedWrongly": round(item.loss, 6),
            "workNotSeen": round(item.missing, 6),
        }
        if index < len(found.prices):
            price = found.prices[index]
            entry |= {
                "dollarsPerHour": price.dollars_per_hour,
                "served": round(price.served, 6),
                "proved": price.proved,
            }
        fits.append(entry)
    return {
        "version": 1,
        "log": {
            "format": kind,
            "requests": sums.requests,
            "badRows": tally.bad_rows,
            "badExamples": [str(row) for row in tally.bad_examples],
            "models": dict(sorted(tally.models.items())),
            "requestsPerSecond": tally.requests_per_second,
            "meanInputTokens": round(sums.mean_input, 3),
            "meanOutputTokens": round(sums.mean_output, 3),
            "outputKnownAtArrival": _output_known(tally),
        },
        "requestsPerSecond": found.requests_per_second if rate_known else None,
        "recommended": len(found.fits[found.recommended].classes),
        "classes": in_plan(found, chosen),
        "fits": fits,
        "finest": None
        if found.finest_price is None
        else {"dollarsPerHour": found.finest_price.dollars_per_hour, "served": round(found.finest_price.served, 6)},
        "unservable": round(found.unservable, 6),
        "bounds": [
            {
                "class": name,
                "gpu": bound.gpu,
                "tensorParallel": bound.tensor_parallel,
                "batch": bound.batch,
                "boundBy": bound.by,
                "prefillArithmeticToMemory": float(f"{bound.prefill_ratio:.4g}"),
                "decodeArithmeticToMemory": float(f"{bound.decode_ratio:.4g}"),
                "prefillShareOfTime": round(bound.prefill_share, 4),
                "computeShareOfTime": round(bound.compute_share, 4),
            }
            for name, bound in found.bounds(found.fits[chosen])
        ],
        "notes": _notes(tally, found, rate_known=rate_known),
    }


def as_view(kind: str, tally: Tally, found: Proposal, chosen: int, *, rate_known: bool) -> RenderableType:
    """The proposal for a terminal."""
    sums = tally.sums
    seen = tally.requests_per_second
    rate = "" if seen is None else f", {seen:.4g} requests/s"
    head = f"{kind}: {sums.requests} requests{rate}, mean {sums.mean_input:.0f} tokens in, {sums.mean_output:.0f} out"
    notes = _notes(tally, found, rate_known=rate_known)
    return Group(
        Text("\n".join([head, *notes])),
        _classes(found, chosen),
        _fits(found, chosen),
        _bounds(found, found.fits[chosen]),
    )


def _notes(tally: Tally, found: Proposal, *, rate_known: bool) -> list[str]:
    notes = []
    if tally.bad_rows:
        notes.append(f"{tally.bad_rows} rows contain no request, for example:")
        notes += [f"  {row}" for row in tally.bad_examples]
    if len(tally.models) > 1 and tally.only_model is None:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(tally.models.items()))
        notes.append(f"requests to several models are put together: {listed}; --log-model selects one of them")
    if tally.output_known:
        notes.append("answer lengths are taken as declared at arrival, in max_tokens, because --output-known says so")
    elif tally.declared:
        notes.append(
            f"{tally.declared} requests declare max_tokens, which may divide classes; the others go to the last"
        )
    else:
        notes.append(
            "boundaries are on prompts alone: the log declares no max_tokens, and answers are unknown at arrival"
        )
    if not rate_known:
        notes.append("the log has no times: rates are shares of 1 request/s; --requests-per-second sets the total")
    notes += [f"left out: {error}" for error in found.refused]
    if found.unservable:
        notes.append(f"{found.unservable:.2%} of the requests fit no replica of the plan within its limits: not priced")
    return notes


def _output_known(tally: Tally) -> bool:
    return any(bound != UNBOUNDED for _, bound in tally.cells)


def _classes(found: Proposal, chosen: int) -> Table:
    shown = found.fits[chosen]
    count = len(shown.classes)
    best = len(found.fits[found.recommended].classes)
    title = f"Classes: {count}" + (", recommended" if chosen == found.recommended else f"; {best} are recommended")
    table = Table(box=SIMPLE_HEAD, title_justify="left", title=title)
    table.add_column("class")
    table.add_column("takes")
    for name in ("mean in", "mean out", "requests/s", "requests"):
        table.add_column(name, justify="right")
    whole = sum(item.sums.requests for item in shown.classes)
    for item, declared in zip(shown.classes, _declared(found, shown), strict=True):
        table.add_row(
            item.name,
            _words(item.match),
            str(declared.input_tokens),
            str(declared.output_tokens),
            f"{float(declared.requests_per_second):.4g}",
            f"{item.sums.requests / whole:.1%}",
        )
    return table


def _fits(found: Proposal, chosen: int) -> Table:
    table = Table(box=SIMPLE_HEAD, title_justify="left", title="What fewer classes cost")
    table.add_column("classes", justify="right")
    table.add_column("work planned wrongly", justify="right")
    table.add_column("work not seen", justify="right")
    if found.prices:
        for name in ("$/h", "served"):
            table.add_column(name, justify="right")
    table.add_column("boundaries: prompts from")
    seen = 0
    for index, item in enumerate(found.fits):
        if len(item.classes) == seen:
            continue  # one more class gains nothing
        seen = len(item.classes)
        row = [f"{seen}{' *' if index == chosen else ''}", f"{item.loss:.1%}", f"{item.missing:.1%}"]
        if found.prices:
            price = found.prices[index] if index < len(found.prices) else None
            row += ["", ""] if price is None else _price_words(price)
        table.add_row(*row, _boundaries(item))
    if found.finest_price is not None:
        table.add_row("finest", "", "", *_price_words(found.finest_price), "all of the above")
    return table


def _boundaries(shown: Fit) -> str:
    starts = sorted({part.match.input_tokens_at_least or 0 for part in shown.classes} - {0})
    most = sorted({part.match.max_tokens_at_most or 0 for part in shown.classes} - {0})
    words = ", ".join(map(str, starts)) or "none"
    return f"{words}; max_tokens up to {', '.join(map(str, most))}" if most else words


def _price_words(price: Any) -> list[str]:
    mark = "" if price.proved else " (not proved)"
    return [f"{price.dollars_per_hour:.2f}{mark}", f"{price.served:.1%}"]


def _bounds(found: Proposal, chosen: Fit) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title_justify="left",
        title="What bounds each class (arithmetic time to memory time, of prompts and of answers)",
    )
    for name in ("class", "GPU"):
        table.add_column(name)
    for name in ("TP", "batch", "prefill", "decode", "prefill's share of time"):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    for name, bound in found.bounds(chosen):
        table.add_row(name, bound.gpu, str(bound.tensor_parallel), str(bound.batch), *_ratios(bound), bound.by)
    return table


def _ratios(bound: Bound) -> list[str]:
    return [f"{bound.prefill_ratio:.3g}", f"{bound.decode_ratio:.2g}", f"{bound.prefill_share:.0%}"]


def _words(match: Match) -> str:
    parts = []
    if match.input_tokens_at_least is not None:
        parts.append(f"from {match.input_tokens_at_least} tokens in")
    if match.max_tokens_at_most is not None:
        parts.append(f"max_tokens up to {match.max_tokens_at_most}")
    return ", ".join(parts) or "the rest"
