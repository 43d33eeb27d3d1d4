"""The page: content into the template. Everything from outside is escaped there, as the template engine does by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from servingplan.report import figures

PAGE, LIST = "page.html", "list.html"


def page_html(page: Mapping[str, Any], *, links: Mapping[str, Any] | None = None) -> str:
    """The HTML of a page's content. ``links`` is there where a server gives the page: the time of what was seen, whether
    changed plans may be tried, and the budget and demand that are."""
    return _template(PAGE).render(
        page=page,
        links=links,
        latency_rows=figures.latency_rows(page),
        colours={model: figures.colour(page, model) for model in page["models"]},
        racks=figures.racks(page),
        flows=figures.flows(page),
        dollars=figures.dollars(page),
        curve=figures.curve(page) if page["curve"] else None,
        passed=page["curve"] and figures.is_passed(page["curve"]),
        latency=figures.latency(page),
    )


def list_html(plans: Sequence[Mapping[str, str]]) -> str:
    """The HTML of a list of plans, each with a link to its page."""
    return _template(LIST).render(plans=plans)


@lru_cache(maxsize=2)
def _template(name: str) -> Template:
    files = resources.files("servingplan.report")
    environment = Environment(
        loader=FunctionLoader(lambda wanted: files.joinpath(wanted).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template(name)


def _number(value: float | None, form: str = ".4g") -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)
