"""Reads the owner's annotations on a pool's object, and the operator's own notes there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from servingplan.model import names

_NUMBER = re.compile(r"[0-9]{1,6}")


def ceiling(annotations: Mapping[str, str], wanted: int) -> tuple[int | None, str | None]:
    """The most nodes that the owner allows (None: no limit), and a text about an error in the annotation. With an error the
    limit is ``wanted``, so that the pool does not grow."""
    text = annotations.get(names.MAX_NODES_ANNOTATION)
    if text is None:
        return None, None
    if _NUMBER.fullmatch(text.strip()):
        return int(text), None
    return wanted, (
        f"its annotation {names.MAX_NODES_ANNOTATION} is {text!r}, which is not a whole number: it does not grow until its "
        "owner writes one"
    )


def number(text: str | None) -> int | None:
    """The whole number in an annotation; None if it holds none."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
