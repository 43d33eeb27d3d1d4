"""Compares rendered manifests with the objects in the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from servingplan.model.fleet import digest
from servingplan.model.world import LiveObject


def asked_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a rendered manifest that the object in the cluster must have: labels, annotations, and spec or data."""
    metadata = manifest["metadata"]
    asked: dict[str, Any] = {"metadata": {key: metadata[key] for key in ("labels", "annotations") if key in metadata}}
    return asked | {key: manifest[key] for key in ("spec", "data") if key in manifest}


def in_place(live: LiveObject | None, manifest: Mapping[str, Any]) -> bool:
    """Whether an object exists, belongs to the plan, and is as rendered or as admission rewrites that. What others or the
    API server added to it does not count."""
    if live is None or not live.ours:
        return False
    return covers(live.manifest, asked_of(manifest)) or is_rewritten(live.rewritten, live.manifest, manifest)


def covers(live: Any, wanted: Any) -> bool:
    """Whether ``live`` has everything in ``wanted``: maps may have more keys, lists must be as long."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and covers(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(have, want) for have, want in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


class Rewriting(NamedTuple):
    """The change that admission made to an applied manifest."""

    digests: tuple[str, str]
    """The digest of what was asked for, and that of what is there instead."""
    fields: tuple[str, ...]
    """Where the two differ, as ``spec.template``; at most ``MOST_FIELDS``."""


MOST_FIELDS = 3
"""The number of changed fields of an object that people are told."""


def rewriting(manifest: Mapping[str, Any], answer: Mapping[str, Any]) -> Rewriting | None:
    """The change that admission made to an applied manifest; None if it is there as asked."""
    asked = asked_of(manifest)
    if covers(answer, asked):
        return None
    fields = tuple(sorted(_differing(answer, asked, "")))[:MOST_FIELDS]
    return Rewriting((digest(asked), digest(_same_keys(answer, asked))), fields)


_NOT_THERE = object()


def _differing(live: Any, wanted: Any, path: str) -> list[str]:
    """The paths of all parts of ``wanted`` that do not stand so in ``live``."""
    if covers(live, wanted):
        return []
    if isinstance(wanted, dict) and isinstance(live, dict):
        parts = [(key, live.get(key, _NOT_THERE), wanted[key]) for key in wanted]
    elif isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        parts = [(str(index), *pair) for index, pair in enumerate(zip(live, wanted, strict=True))]
    else:
        return [path]
    return [found for key, have, want in parts for found in _differing(have, want, f"{path}.{key}" if path else key)]


def is_rewritten(rewritten: tuple[str, str] | None, live: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether the object is still what admission made of this manifest. Then writing it again would change nothing."""
    asked = asked_of(manifest)
    return rewritten is not None and rewritten == (digest(asked), digest(_same_keys(live, asked)))


def _same_keys(live: Any, wanted: Any) -> Any:
    """The part of ``live`` whose keys are in ``wanted``. The rest belongs to others."""
    if isinstance(wanted, dict) and isinstance(live, dict | Mapping):
        return {key: _same_keys(live[key], wanted[key]) for key in wanted if key in live}
    if isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        return [_same_keys(have, want) for have, want in zip(live, wanted, strict=True)]
    return live
