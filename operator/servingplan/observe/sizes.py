"""What a pool's owner wrote on its object, and what this operator noted there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from servingplan.model import names

_NUMBER = re.compile(r"[0-9]{1,6}")


def ceiling(annotations: Mapping[str, str], wanted: int) -> tuple[int | None, str | None]:
    """Most nodes that the owner allows (None: no limit of theirs), and what is wrong with what they wrote: the pool then stays
    at ``wanted`` at most."""
    text = annotations.get(names.MAX_NODES_ANNOTATION)
    if text is None:
        return None, None
    if _NUMBER.fullmatch(text.strip()):
        return int(text), None
    return wanted, (
        f"its annotation {names.MAX_NODES_ANNOTATION} is {text!r}, which is no whole number: it does not grow until its owner "
        "writes one"
    )


def number(text: str | None) -> int | None:
    """A whole number that an annotation holds, or None."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
