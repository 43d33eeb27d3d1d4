"""Reads quantities, and writes them in the API server's form, so that a rendered manifest equals the stored one.

Kubernetes stores ``cpu: 1000m`` as ``1`` and ``memory: 1024Mi`` as ``1Gi``. A manifest in the user's form would look changed in
every turn.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?")
_BINARY: dict[str, int] = {suffix: 1024**power for power, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FINEST = _DECIMAL["m"]
"""Amounts of resources are rounded up to thousandths."""


def canonical(value: Any) -> Any:
    """The manifest with every quantity below ``limits``, ``requests`` and ``sizeLimit`` in canonical form."""
    if isinstance(value, list):
        return [canonical(item) if isinstance(item, dict | list) else item for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        if key in ("limits", "requests") and isinstance(item, dict):
            out[key] = {name: canonical_quantity(amount) for name, amount in item.items()}
        elif key == "sizeLimit":
            out[key] = canonical_quantity(item)
        else:
            out[key] = canonical(item) if isinstance(item, dict | list) else item
    return out


def amount_of(value: Any) -> Fraction | None:
    """The amount that a quantity stands for, such as 1/4 of ``250m``; None where the value is no quantity."""
    parts = _parts(value)
    if parts is None:
        return None
    number, suffix = parts
    return number * (_BINARY[suffix] if suffix in _BINARY else Fraction(10) ** _exponent(suffix))


def canonical_quantity(value: Any) -> Any:
    """The quantity with the largest suffix of its family that leaves a whole number; another value stays unchanged."""
    return _spelled(value) if isinstance(value, str) else _spelled.__wrapped__(value)


@lru_cache(maxsize=1024)
def _spelled(value: Any) -> Any:
    parts = _parts(value)
    if parts is None:
        return value
    amount, suffix = parts
    if suffix in _BINARY:
        amount *= _BINARY[suffix]
        if suffix and amount >= 1024 and amount.denominator == 1:
            name = max((name for name in _BINARY if amount % _BINARY[name] == 0), key=lambda name: _BINARY[name])
            return f"{amount // _BINARY[name]}{name}"
        suffix = ""  # less than 1Ki, and parts of a byte, are written in decimal
    with_exponent = suffix not in _DECIMAL
    units = math.ceil(amount * Fraction(10) ** (_exponent(suffix) - _FINEST))
    for name, power in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        if power >= _FINEST and units and units % 10 ** (power - _FINEST) == 0:
            spelled = (f"e{power}" if power else "") if with_exponent else name
            return f"{units // 10 ** (power - _FINEST)}{spelled}"
    return "0"


def _parts(value: Any) -> tuple[Fraction, str] | None:
    """The number and the suffix of a quantity; None where the value is none."""
    match = _QUANTITY.fullmatch(str(value))
    return None if match is None else (Fraction(match.group(1)), match.group(2) or "")


def _exponent(suffix: str) -> int:
    """The power of ten that a decimal suffix or an exponent stands for."""
    return _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
