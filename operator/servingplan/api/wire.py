"""The base of all parts of a spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Rule(NamedTuple):
    """A rule on several fields of a part, written twice: for the API server, and in Python for plans without an API
    server."""

    field: str
    """The field that the error names, in camelCase."""
    cel: str
    """The rule in CEL for the API server; ``self`` is the part."""
    holds: Callable[[Any], bool]
    """The same rule on the parsed part."""
    message: str
    """The error and what to do, the same text from both."""


def _with_rules(schema: dict[str, Any], part: type[Wire]) -> None:
    if part.rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"} for rule in part.rules
        ]


class Wire(BaseModel):
    """A part of the spec: frozen, in camelCase on the wire; unknown fields are refused by name."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra=_with_rules,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self


def refuse_duplicates(field: str, key: str, values: list[str]) -> None:
    """Raise the error of a rule if the list ``field`` has a value twice."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        message = f"the {key} {twice[0]!r} is given twice; change or remove one"
        raise PydanticCustomError("rule", "{message}", {"message": message, "field": field})


def map_list(key: str = "name") -> dict[str, Any]:
    """The schema of a list whose items the API server merges by ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def free_form() -> dict[str, Any]:
    """The schema of an object that the API server keeps unchanged."""
    return {"x-kubernetes-preserve-unknown-fields": True}
