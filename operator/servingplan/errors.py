"""All errors of this project, drawn once.

ServingPlanError
├── InputError          wrong input: field, value, what to do      (exit code 2, a condition)
├── Outdated            the answer is no longer needed
├── Searching           the answer is not there yet: the plan is woken when it is
└── ApiError            the API server refused or could not be reached
    ├── NotFound        404
    ├── Forbidden       403: a permission that the operator lacks
    ├── Gone            410: the resource version is too old: list again
    ├── Conflict        409: another field manager owns the field, or the object changed meanwhile
    └── Invalid         422: the API server's schema refused the object
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


class ServingPlanError(Exception):
    """Root of all errors that this project raises on purpose."""


class InputError(ServingPlanError):
    """Wrong input. The message names the field, the value where there is one, and what to do."""

    def __init__(self, field: str, value: object, advice: str) -> None:
        self.field = field
        self.value = value
        self.advice = advice
        super().__init__(f"{field}: {advice}" if value is None else f"{field}: {shown(value)}: {advice}")


def shown(value: object, most: int = 120) -> str:
    """A value as YAML and JSON have it, in at most so many characters."""
    text = _written(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _written(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)


_MAPPING = "must be a mapping, keys with their values"
_WORDS = {
    "missing": "is required; add it",
    "extra_forbidden": "is not known; remove it or correct its spelling",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number, without a decimal point",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "too_short": "must have at least {min_length} items, has {actual_length}",
    "too_long": "must have at most {max_length} items, has {actual_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
"""What pydantic's errors mean to somebody who writes YAML or JSON, by their type."""


def in_words(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, in the words of YAML: an item of pydantic's ``ValidationError.errors()``."""
    kind, message = problem["type"], str(problem["msg"])
    if kind in _WORDS:
        text = re.sub(r"\b1 (item|character)s", r"1 \1", _WORDS[kind].format(**problem.get("ctx", {})))
        if problem.get("input") is None and kind != "missing":
            return f"is null, and {text}"
        if kind == "string_type" and isinstance(problem["input"], int | float):
            text += "; put it in quotation marks"
        elif kind in ("int_type", "bool_type", "float_type") and isinstance(problem["input"], str):
            text += "; leave out the quotation marks"
        return text
    if kind in ("value_error", "assertion_error"):
        message = message.partition(", ")[2]
    return message


class Outdated(ServingPlanError):  # noqa: N818 (not an error: the answer is no longer needed)
    """The plan asks another question by now, so the answer is no longer needed."""


class Searching(ServingPlanError):  # noqa: N818 (not an error: the plan is woken when the answer is there)
    """A search is under way and goes on beside the turns."""

    def __init__(self, overtaken: bool = False) -> None:
        self.overtaken = overtaken
        """Whether it took the place of a search for the same spec: the cluster changed before that one had ended."""
        super().__init__("a search is under way")


class ApiError(ServingPlanError):
    """The API server answered with an error, or did not answer (``status`` 0)."""

    retry_after_seconds: float | None = None
    """The pause that the API server asked for; None if it did not."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        words = {"Unreachable": "the API server does not answer"}.get(reason, reason)
        super().__init__(f"{status} {reason}: {message}" if status else f"{words}: {message}")


class NotFound(ApiError):  # noqa: N818 (named as the API server's reason)
    """404: the object does not exist."""


class Forbidden(ApiError):  # noqa: N818
    """403: the operator's account lacks a permission; the message names verb and resource."""


class Gone(ApiError):  # noqa: N818
    """410: the API server no longer has the changes since a resource version."""


class Conflict(ApiError):  # noqa: N818
    """409: another manager owns a field that we would set, or the object changed since it was read."""


class Invalid(ApiError):  # noqa: N818
    """422 or 400: the object does not satisfy the API server's schema."""


def api_error(status: int, reason: str, message: str) -> ApiError:
    """The error of the class that belongs to an HTTP status."""
    kinds: dict[int, type[ApiError]] = {
        400: Invalid,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        410: Gone,
        422: Invalid,
    }
    return kinds.get(status, ApiError)(status, reason, message)
