"""An object of any kind: the size stands at one path, and the status may say how many nodes there are.

The path is that of a kind that serves ``/scale``, which is ``.spec.replicas`` wherever its API follows the conventions of
Kubernetes, or the one that the object's owner wrote on it.
"""

from __future__ import annotations

from typing import Any

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.protocol import Json, at, nested, whole_number

REPLICAS = ("spec", "replicas")


class AnyPath:
    """Reads and sets one field, and knows nothing else of the object. The known kinds are derived from it."""

    status_keys: tuple[str, ...] = ("nodes", "replicas", "count")
    """Fields of the status with the number of nodes, the most reliable first."""
    annotations: tuple[str, ...] = ()

    def __init__(self, path: tuple[str, ...] = REPLICAS) -> None:
        self.path = path

    def problem(self, item: Json) -> str | None:
        """Why there is no whole number at the path; None if there is one."""
        if self.wanted(item) is not None:
            return None
        return f"has no whole number at .{'.'.join(self.path)}: give it one"

    def wanted(self, item: Json) -> int | None:
        """The number at the path."""
        return whole_number(at(item, self.path))

    def actual(self, item: Json) -> int | None:
        """The first of the usual fields of the status that has a number."""
        found = (whole_number(at(item, ("status", key))) for key in self.status_keys)
        return next((size for size in found if size is not None), None)

    def bounds(self, item: Json) -> tuple[int, int | None]:  # noqa: ARG002 (of the protocol)
        """No bounds, because none are known."""
        return 0, None

    def step(self, item: Json) -> int:  # noqa: ARG002 (of the protocol)
        """Always one node."""
        return 1

    def sized_by(self, item: Json) -> str | None:  # noqa: ARG002 (of the protocol)
        """None, because no autoscaler is known."""
        return None

    def node_label(self, item: Json) -> tuple[str, str] | None:  # noqa: ARG002 (of the protocol)
        """None, because no label is known."""
        return None

    def template(self, item: Json) -> NodeTemplate:  # noqa: ARG002 (of the protocol)
        """An empty template, because nothing is known."""
        return NodeTemplate()

    def patch(self, item: Json, nodes: int) -> dict[str, Any]:
        """The patch that sets the number at the path."""
        step = self.step(item)
        if nodes < 0 or nodes % step:
            raise ValueError(f"a size of {nodes} nodes: sizes are multiples of {step}")
        return nested(self.path, nodes // step)
