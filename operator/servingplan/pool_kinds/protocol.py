"""The interface of a kind of object that sizes a pool of nodes, and helpers that read such objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from servingplan.model.world import NodeTemplate, Taint

Json = Mapping[str, Any]

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ZONE = "topology.kubernetes.io/zone"
_CLOUD_EFFECTS = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute"}
"""The effects of taints as EKS and GKE write them. The third, PREFER_NO_SCHEDULE, keeps no pod off."""
_EFFECTS = ("NoSchedule", "NoExecute")


class PoolKind(Protocol):
    """One kind of object that sizes a pool of nodes.

    ``item`` is an object of the kind as the API server returns it; any of its fields may be missing or of another type. Sizes
    are whole nodes, even if the object counts in another unit.
    """

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the field with the size."""

    @property
    def status_keys(self) -> tuple[str, ...]:
        """The keys of the status that are read."""

    @property
    def annotations(self) -> tuple[str, ...]:
        """The ends of the names of annotations that are read."""

    def problem(self, item: Json) -> str | None:
        """Why the object has no size that could be set, for people; None if it has one."""

    def wanted(self, item: Json) -> int | None:
        """The number of nodes that are asked for; None if the object does not say."""

    def actual(self, item: Json) -> int | None:
        """The number of nodes that exist according to the object, booting ones included; None if it does not say."""

    def bounds(self, item: Json) -> tuple[int, int | None]:
        """The least and the most nodes that the object allows anybody to ask for; None as the most: no limit."""

    def step(self, item: Json) -> int:
        """Sizes are multiples of this number of nodes."""

    def sized_by(self, item: Json) -> str | None:
        """Another autoscaler that sizes the pool according to the object, for people; None if there is none."""

    def node_label(self, item: Json) -> tuple[str, str] | None:
        """The label by which every node of the pool names it; None if the kind has none."""

    def template(self, item: Json) -> NodeTemplate:
        """What the object says of its nodes."""

    def patch(self, item: Json, nodes: int) -> dict[str, Any]:
        """The JSON merge patch that sets the size and nothing else.

        Raises ``ValueError`` for a size that the object cannot have.
        """


def at(item: Any, path: Iterable[str]) -> Any:
    """The value at a path of keys; None if there is none."""
    for key in path:
        if not isinstance(item, Mapping):
            return None
        item = item.get(key)
    return item


def whole_number(value: Any) -> int | None:
    """The value if it is a whole number that is not negative; else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def written_number(value: Any) -> int | None:
    """The same, also for a number that is written as text, as in quantities, labels and annotations."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return whole_number(value)


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """An object with one value, at a path of keys."""
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; empty for anything else."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def text_map(value: Any) -> dict[str, str]:
    """The entries of an object whose values are texts."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): item for key, item in value.items() if isinstance(item, str)}


def annotation(item: Json, end: str) -> str | None:
    """The value of the annotation whose name ends like this. Groups of Cluster API differ by installation."""
    found = text_map(at(item, ("metadata", "annotations")))
    return next((found[key] for key in sorted(found) if key.endswith(end)), None)


def object_name(item: Json) -> str:
    """The name of the object."""
    return str(at(item, ("metadata", "name")) or "")


def taints_of(value: Any) -> tuple[Taint, ...]:
    """The taints of a list that keep pods off. Their effects may be spelled as Kubernetes or as a cloud does."""
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
    """The taints in a text, each ``key=value:effect`` or ``key:effect``, that keep pods off."""
    found = []
    for line in lines:
        name, _, effect = line.strip().rpartition(":")
        key, _, value = name.partition("=")
        if key and effect in _EFFECTS:
            found.append(Taint(key=key, value=value, effect=effect))
    return tuple(found)
