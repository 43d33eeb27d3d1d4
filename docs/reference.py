"""Writes the reference pages from the code: ``python docs/reference.py``, or ``make reference``.

The fields of a plan come from its CustomResourceDefinition, the commands from the command line, the metrics from the table that
serves them, and the conditions and a page for each reason from the table of reasons.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from servingplan.api import reasons
from servingplan.api.crd import custom_resource_definition
from servingplan.cli import app
from servingplan.metrics.families import FAMILIES

DOCS = Path(__file__).resolve().parent
_HEAD = """\
<!-- generated: make reference -->
# {title}

Generated from {source} by `make reference`; do not edit.

{text}

"""
_UNITS = {
    "_dollars_per_hour": "$/h",
    "_requests_per_second": "requests/s",
    "_timestamp_seconds": "Unix s",
    "_seconds": "s",
    "_ratio": "share",
}


def pages() -> dict[str, str]:
    """Each reference page's text, by its name below ``docs/``."""
    return {
        "reference-plan.md": _plan(),
        "reference-cli.md": _commands(),
        "reference-metrics.md": _metrics(),
        "conditions.md": _conditions(),
        **{reasons.page_of(name).removeprefix("docs/"): _reason(name) for name in reasons.REASONS},
    }


def _row(*cells: str) -> str:
    """A line of a table. A bar would end its cell, and a tag would vanish on the site."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _plan() -> str:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        _HEAD.format(
            title="Fields of a plan",
            source="the models of the API",
            text="`LLMServingPlan`, `servingplan.dev/v1alpha1`. `kubectl explain lsp.spec` shows the same. A field in\n"
            "**bold** must be given wherever the object that holds it is. `[]` stands for each item of a list, `{}` for each\n"
            "key of a map.",
        ).rstrip()
    ]
    for part in ("spec", "status"):
        for name, field in schema[part]["properties"].items():
            lines += ["", f"## {part}.{name}", "", field.get("description", ""), ""]
            lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
            lines += _fields(f"{part}.{name}", field, required=name in schema[part].get("required", ()))
    return "\n".join(lines) + "\n"


def _fields(path: str, field: dict[str, Any], *, required: bool) -> Iterator[str]:
    name = f"`{path}`"
    yield _row(f"**{name}**" if required else name, _type(field), _default(field), field.get("description", ""))
    inner = field
    if "items" in field:
        path, inner = f"{path}[]", field["items"]
    elif isinstance(field.get("additionalProperties"), dict):
        path, inner = f"{path}.{{}}", field["additionalProperties"]
    for key, value in inner.get("properties", {}).items():
        yield from _fields(f"{path}.{key}", value, required=key in inner.get("required", ()))


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "number"
    if "items" in field:
        return f"list of {_type(field['items'])}"
    return str(field.get("type", "any"))


def _default(field: dict[str, Any]) -> str:
    return f"`{field['default']}`" if "default" in field else ""


def _commands() -> str:
    text = (
        "The exit code is 0 for an answer, 2 for wrong usage or input, 3 if there is no plan (or, for `doctor`, a problem),\n"
        "4 if an answer does not pass its check. `kubectl servingplan` runs the same commands."
    )
    lines = [_HEAD.format(title="Commands", source="the command line", text=text).rstrip()]
    for words, command in _below("servingplan", typer.main.get_command(app)):
        lines += ["", f"## {words}", "", " ".join((command.help or "").split())]
        parameters = [one for one in command.params if one.name != "help" and not getattr(one, "hidden", False)]
        if parameters:
            lines += ["", "| argument or option | default | meaning |", "|---|---|---|"]
            lines += [_row(_called(one), _standard(one), getattr(one, "help", None) or "") for one in parameters]
    return "\n".join(lines) + "\n"


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The command and those below it, each with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, one in inner.items():
        if not one.hidden:
            yield from _below(f"{words} {name}", one)


def _called(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))


def _standard(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    value = parameter.default() if callable(parameter.default) else parameter.default
    value = value.value if isinstance(value, enum.Enum) else value
    return "" if value in (None, False, "", [], ()) else f"`{value}`"


def _metrics() -> str:
    text = (
        "All metrics have the labels `plan_namespace` and `plan` beside those listed. A label `namespace` would be the\n"
        "operator's own after a scrape. `docs/metrics.md` says how to get them, and what to do about each alert."
    )
    lines = [
        _HEAD.format(title="Metrics of the operator", source="`operator/servingplan/metrics/families.py`", text=text)
        + "| metric | labels | kind | unit | meaning |",
        "|---|---|---|---|---|",
    ]
    for one in FAMILIES:
        unit = next((unit for ending, unit in _UNITS.items() if one.name.endswith(ending)), "count")
        lines.append(_row(f"`{one.name}`", ", ".join(f"`{label}`" for label in one.labels), one.kind, unit, one.help))
    return "\n".join(lines) + "\n"


def _conditions() -> str:
    text = (
        "Each condition has a reason, one word for programs, and a message, which names numbers and what to do. Each reason\n"
        "has a page of its own. If the chart's `docsUrl` names a site with these pages, the messages name them."
    )
    lines = [
        _HEAD.format(title="Conditions and Events", source="`operator/servingplan/api/reasons.py`", text=text).rstrip(),
        *("", "| condition | holds when |", "|---|---|"),
        *(_row(f"`{name}`", meaning) for name, meaning in reasons.CONDITIONS.items()),
        *("", "| reason | means | what to do |", "|---|---|---|"),
    ]
    for name, one in sorted(reasons.REASONS.items()):
        page = reasons.page_of(name).removeprefix("docs/")
        lines.append(f'| <a id="{name}"></a>[`{name}`]({page}) {_row(one.meaning, one.advice)}')
    return "\n".join(lines) + "\n"


def _reason(name: str) -> str:
    one = reasons.REASONS[name]
    stalls = "A person has to act: until then the plan is not ready, and has the condition `Stalled`."
    passes = "It passes by itself, is tried again, or does not keep the plan from being ready."
    parts = [
        f"**It means:** {one.meaning}",
        f"**What to do:** {one.advice or 'Nothing.'}",
        *([stalls if reasons.needs_a_person(name) else passes] if one.advice else []),
        "`kubectl describe lsp NAME` shows where it holds, with a message that names the object and the value.",
        "".join(f"`{page}` has more. " for page in reasons.more_about(name)) + "All reasons: `docs/conditions.md`.",
    ]
    source = "`operator/servingplan/api/reasons.py`"
    return _HEAD.format(title=name, source=source, text="\n\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    (DOCS / "reasons").mkdir(exist_ok=True)
    for name, text in pages().items():
        (DOCS / name).write_text(text)
