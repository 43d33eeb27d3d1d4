"""The page: content into the template. Everything from outside is escaped there, as the template engine does by default."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from servingplan.report import figures

NAME = "page.html"


def page_html(page: Mapping[str, Any]) -> str:
    """The HTML of a page's content."""
    return _template().render(
        page=page,
        latency_rows=figures.latency_rows(page),
        colours={model: figures.colour(page, model) for model in page["models"]},
        racks=figures.racks(page),
        flows=figures.flows(page),
        dollars=figures.dollars(page),
        curve=figures.curve(page) if page["curve"] else None,
        latency=figures.latency(page),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    text = resources.files("servingplan.report").joinpath(NAME).read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({NAME: text}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template(NAME)


def _number(value: float | None, form: str = ".4g") -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else format(value, form)
