"""What the operator needs to know of a kind of object that sizes a pool of nodes, and how such an object is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from servingplan.model.world import NodeTemplate, Taint

Json = Mapping[str, Any]

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ZONE = "topology.kubernetes.io/zone"
_CLOUD_EFFECTS = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute"}
"""Effects of taints as EKS and GKE spell them; the third, PREFER_NO_SCHEDULE, keeps nobody off."""
_EFFECTS = ("NoSchedule", "NoExecute")


class PoolKind(Protocol):
    """One kind. ``item`` is an object of it as the API server has it; any of its fields may be missing or of another type.

    Sizes are whole nodes, also where the object counts otherwise.
    """

    @property
    def path(self) -> tuple[str, ...]:
        """Keys that lead to the field that is the size."""

    @property
    def status_keys(self) -> tuple[str, ...]:
        """Keys of the status that are read."""

    @property
    def annotations(self) -> tuple[str, ...]:
        """Ends of the names of annotations that are read."""

    def problem(self, item: Json) -> str | None:
        """Why the object has no size that could be set, for people; None: it has one."""

    def wanted(self, item: Json) -> int | None:
        """Nodes that are asked for; None where the object does not say."""

    def actual(self, item: Json) -> int | None:
        """Nodes that the object says are there, booting ones included; None where it does not say."""

    def bounds(self, item: Json) -> tuple[int, int | None]:
        """Least and most nodes that the object lets anybody ask for; None: no most."""

    def step(self, item: Json) -> int:
        """Sizes are multiples of this many nodes."""

    def sized_by(self, item: Json) -> str | None:
        """Another autoscaler that the object says sizes it, for people."""

    def node_label(self, item: Json) -> tuple[str, str] | None:
        """Label by which every node of the pool names it."""

    def template(self, item: Json) -> NodeTemplate:
        """What the object says of its nodes."""

    def patch(self, item: Json, nodes: int) -> dict[str, Any]:
        """The JSON merge patch that sets the size and nothing else. Raises ``ValueError`` for a size that the object cannot
        have."""


def at(item: Any, path: Iterable[str]) -> Any:
    """Value at a path of keys, or None."""
    for key in path:
        if not isinstance(item, Mapping):
            return None
        item = item.get(key)
    return item


def whole_number(value: Any) -> int | None:
    """A whole number that is not negative; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def written_number(value: Any) -> int | None:
    """The same, also where it is written as text, as quantities, labels and annotations are."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return whole_number(value)


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """An object with one value, at a path of keys."""
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; nothing of anything else."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def text_map(value: Any) -> dict[str, str]:
    """The entries of an object whose values are texts."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): item for key, item in value.items() if isinstance(item, str)}


def annotation(item: Json, end: str) -> str | None:
    """Value of the annotation whose name ends so: groups of Cluster API differ by installation."""
    found = text_map(at(item, ("metadata", "annotations")))
    return next((found[key] for key in sorted(found) if key.endswith(end)), None)


def object_name(item: Json) -> str:
    """Name of the object."""
    return str(at(item, ("metadata", "name")) or "")


def taints_of(value: Any) -> tuple[Taint, ...]:
    """Those of a list that keep pods off, in Kubernetes' own spelling of effects or in that of a cloud."""
    found = []
    for taint in value if isinstance(value, list) else ():
        if not isinstance(taint, Mapping) or not taint.get("key"):
            continue
        effect = str(taint.get("effect") or "")
        effect = _CLOUD_EFFECTS.get(effect, effect)
        if effect in _EFFECTS:
            found.append(Taint(key=str(taint["key"]), value=str(taint.get("value") or ""), effect=effect))
    return tuple(found)


def written_taints(lines: Iterable[str]) -> tuple[Taint, ...]:
    """Those of ``key=value:effect`` or ``key:effect`` that keep pods off."""
    found = []
    for line in lines:
        name, _, effect = line.strip().rpartition(":")
        key, _, value = name.partition("=")
        if key and effect in _EFFECTS:
            found.append(Taint(key=key, value=value, effect=effect))
    return tuple(found)
