"""What a search brings back, and what it may start from.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from servingplan.model.answer import Level, Stopped
from servingplan.solve.problem.packing import Content


class Start(Protocol):
    """A plan that is known: what the search needs of an `Incumbent`."""

    @property
    def copies(self) -> Sequence[int]: ...
    @property
    def nodes(self) -> Sequence[int]: ...
    @property
    def rates(self) -> Mapping[tuple[int, int], float]: ...


@dataclass(slots=True)
class Found:
    """What a search found."""

    copies: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    patterns: dict[int, list[tuple[Content, int]]] = field(default_factory=dict)
    contents: Mapping[int, list[tuple[Content, int]]] = field(default_factory=dict)
    targets: tuple[float, ...] = ()
    levels: list[Level] = field(default_factory=list)
    units: dict[str, float] = field(default_factory=dict)
    """Size that is natural for each level, in its own unit: differences far below it are the solver's rounding."""
    stopped: Stopped = "proved"
    infeasible: bool = False
    rates: Mapping[tuple[int, int], float] | None = None
    """Requests/s of class k by shape c, of methods that route in their own way; None: the best routing."""

    @property
    def scale(self) -> float:
        """Scale of the plan under MaximizeService; 1 under MinimizeCost."""
        return next((level.value for level in self.levels if level.name == "scale"), 1.0)
