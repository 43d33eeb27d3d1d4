"""What every part of a spec has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Rule(NamedTuple):
    """What the fields of a part must satisfy together, said twice: to the API server, and to Python for plans that
    never meet one."""

    field: str
    """The field to name in the error, as written outside."""
    cel: str
    """For the API server; ``self`` is the part."""
    holds: Callable[[Any], bool]
    """The same of the parsed part."""
    message: str
    """What is wrong and what to do, the same from both."""


def _with_rules(schema: dict[str, Any], part: type[Wire]) -> None:
    if part.rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"} for rule in part.rules
        ]


class Wire(BaseModel):
    """A part of the spec: camelCase outside, frozen, unknown fields refused by name."""

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
    """Raises the error of a rule where a value of the list ``field`` is there twice."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        message = f"the {key} {twice[0]!r} is given twice; change or remove one"
        raise PydanticCustomError("rule", "{message}", {"message": message, "field": field})


def map_list(key: str = "name") -> dict[str, Any]:
    """Of a list whose items the API server merges by ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def free_form() -> dict[str, Any]:
    """Of an object that the API server keeps as it is."""
    return {"x-kubernetes-preserve-unknown-fields": True}
