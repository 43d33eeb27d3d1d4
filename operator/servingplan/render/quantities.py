"""Quantities spelled as the API server spells them, so that what we render equals what comes back.

Kubernetes stores ``cpu: 1000m`` as ``1`` and ``memory: 1024Mi`` as ``1Gi``; a manifest that keeps the user's spelling
would look changed on every turn.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"^([+-]?[0-9.]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]+)?$")
_BINARY = {suffix: 1024 ** (power + 1) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def canonical(value: Any) -> Any:
    """A manifest with every quantity below ``limits``, ``requests`` and ``sizeLimit`` in canonical form."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        if key in ("limits", "requests") and isinstance(item, dict):
            out[key] = {name: canonical_quantity(amount) for name, amount in item.items()}
        elif key == "sizeLimit":
            out[key] = canonical_quantity(item)
        else:
            out[key] = canonical(item)
    return out


def canonical_quantity(value: Any) -> Any:
    """One quantity: the largest suffix of its family that leaves a whole number; what is no quantity stays."""
    match = _QUANTITY.match(str(value))
    if match is None:
        return value
    number, suffix = Decimal(match.group(1)), match.group(2) or ""
    if suffix in _BINARY:
        whole = number * _BINARY[suffix]
        for name, factor in sorted(_BINARY.items(), key=lambda item: -item[1]):
            if whole and whole % factor == 0:
                return f"{int(whole // factor)}{name}"
        return str(int(whole))
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return str(value)
    exponent = _DECIMAL[suffix]
    for name, power in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        scaled = number * Decimal(10) ** (exponent - power)
        if scaled == scaled.to_integral_value() and (scaled or power == 0):
            return f"{int(scaled)}{name}"
    return str(value)
