"""Parses a spec, or finds every mistake in it."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from servingplan.api.v1alpha1 import LONGEST_PLAN_NAME, PLAN_RULES, PlanSpec
from servingplan.errors import InputError, in_words
from servingplan.model.remembered import Kept

LONGEST_KEPT = 65_536
"""A spec whose text is longer is parsed each time: what is kept is to take little memory, whatever people write."""
_parsed = Kept[str, PlanSpec](256)


def parse_spec(raw: object) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
    """The parsed spec, or None and every mistake in it, each with its field, its value and what to do.

    Specs that are written alike are parsed once, and are then one object, unless they are very long.
    """
    written = repr(raw)
    may_keep = len(written) <= LONGEST_KEPT
    if may_keep and (known := _parsed.get(written)) is not None:
        return known, ()
    try:
        spec = PlanSpec.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # pydantic reports a list with a wrong item as too short as well: only the error of the item helps.
        inner = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
        return None, tuple(
            _input_error(problem)
            for problem in problems
            if problem["type"] != "too_short" or problem["loc"] not in inner
        )
    if may_keep:
        _parsed.put(written, spec)
    return spec, ()


def name_problem(name: str, spec: PlanSpec) -> InputError | None:
    """The error in a plan's name, alone or together with its spec; None if there is none."""
    if len(name) > LONGEST_PLAN_NAME:
        return InputError("metadata.name", name, PLAN_RULES[0]["message"])
    if spec.gateway.config_map == f"{name}-plan":
        return InputError("spec.gateway.configMap", spec.gateway.config_map, PLAN_RULES[1]["message"])
    return None


def _input_error(problem: ErrorDetails) -> InputError:
    kind, location, value = problem["type"], problem["loc"], problem.get("input")
    if kind == "missing":
        value = None
    elif kind == "rule":
        field = problem["ctx"]["field"]
        location = (*location, field)
        value = value.get(field) if isinstance(value, dict) else value
    elif kind == "extra_forbidden":
        return InputError(_path(location), value, "is not a field of LLMServingPlan; remove it or correct its spelling")
    return InputError(_path(location), value, in_words(problem))


def _path(location: tuple[int | str, ...]) -> str:
    text = "spec"
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text
