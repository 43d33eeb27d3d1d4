"""The types of single values in a spec: decimals, durations, names. API server and Python check the same."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

_DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"
_DURATION_PATTERN = r"^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"
_MOMENT_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"
_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_HOST_PATTERN = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_VISIBLE_PATTERN = r"^[!-~]+$"


def _parse_decimal(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('write it as a whole number or as a quoted decimal, such as "23.92"')
    if isinstance(value, str) and not re.fullmatch(_DECIMAL_PATTERN, value):
        raise ValueError('must be a decimal that is not negative, such as "23.92"')
    if isinstance(value, int) and not 0 <= value < 10**12:
        raise ValueError("must not be negative, and below 10^12")
    try:
        return Decimal(value)
    except InvalidOperation as error:
        raise ValueError('must be a decimal, such as "23.92"') from error


def _write_decimal(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _decimal_schema(*rules: dict[str, str]) -> dict[str, Any]:
    schema = {
        "x-kubernetes-int-or-string": True,
        "pattern": _DECIMAL_PATTERN,
        "minimum": 0,
        "maxLength": 24,
    }
    return {**schema, "x-kubernetes-validations": list(rules)} if rules else schema


DecimalString = Annotated[
    Decimal,
    BeforeValidator(_parse_decimal),
    PlainSerializer(_write_decimal, return_type=str),
    WithJsonSchema(_decimal_schema()),
]
"""Money and rates are decimal strings or integers, since a float may change in a round trip."""

# CEL sees an integer or a string.
_POSITIVE = {
    "rule": "type(self) == int ? self > 0 : double(self) > 0.0",
    "message": "must be greater than 0",
}
_AT_MOST_ONE = {
    "rule": "type(self) == int ? self <= 1 : double(self) <= 1.0",
    "message": "must be at most 1",
}

_CONFIDENT = {
    "rule": "type(self) == string && double(self) >= 0.5 && double(self) <= 0.99",
    "message": "must be at least 0.5, which plans on the median, and at most 0.99",
}


def _positive(value: Decimal) -> Decimal:
    if value <= 0:
        raise ValueError(_POSITIVE["message"])
    return value


def _at_most_one(value: Decimal) -> Decimal:
    if value > 1:
        raise ValueError(_AT_MOST_ONE["message"])
    return value


def _confident(value: Decimal) -> Decimal:
    if not Decimal("0.5") <= value <= Decimal("0.99"):
        raise ValueError(_CONFIDENT["message"])
    return value


PositiveDecimal = Annotated[DecimalString, AfterValidator(_positive), WithJsonSchema(_decimal_schema(_POSITIVE))]
Share = Annotated[
    PositiveDecimal, AfterValidator(_at_most_one), WithJsonSchema(_decimal_schema(_POSITIVE, _AT_MOST_ONE))
]
Fraction = Annotated[DecimalString, AfterValidator(_at_most_one), WithJsonSchema(_decimal_schema(_AT_MOST_ONE))]
Confidence = Annotated[DecimalString, AfterValidator(_confident), WithJsonSchema(_decimal_schema(_CONFIDENT))]
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=_NAME_PATTERN)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=_NAME_PATTERN)]
NamespaceName = Annotated[str, Field(min_length=1, max_length=63, pattern=_NAMESPACE_PATTERN)]
HostName = Annotated[str, Field(min_length=1, max_length=253, pattern=_HOST_PATTERN)]
VisibleName = Annotated[str, Field(min_length=1, max_length=128, pattern=_VISIBLE_PATTERN)]
"""A name that may be the value of an HTTP header."""


def seconds_of(duration: str) -> int:
    """The seconds of a duration: ``"1h5m"`` is 3900. Raises ``ValueError`` if it is not a duration."""
    match = re.fullmatch(_DURATION_PATTERN, duration)
    if not duration or match is None:
        raise ValueError("must be a duration such as 90s, 10m or 1h")
    hours, minutes, seconds = (int(part[:-1]) if part else 0 for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _moment(value: str) -> str:
    """Raises ``ValueError`` if it is no time in UTC."""
    message = "must be a time as in RFC 3339, in UTC and whole seconds, with Z at its end"
    if re.fullmatch(_MOMENT_PATTERN, value) is None:
        raise ValueError(message)
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(message) from error
    return value


Moment = Annotated[
    str,
    AfterValidator(_moment),
    WithJsonSchema({"type": "string", "maxLength": 20, "pattern": _MOMENT_PATTERN}),
]
"""A time, RFC 3339 in UTC and whole seconds. Later times are larger texts."""


Duration = Annotated[
    str,
    AfterValidator(lambda value: (seconds_of(value), value)[1]),
    Field(max_length=24),
    WithJsonSchema({"type": "string", "minLength": 2, "maxLength": 24, "pattern": _DURATION_PATTERN}),
]
