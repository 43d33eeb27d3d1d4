"""The engines of a planned fleet, each on its node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.llm import ModelCard
from servingplan.planning.cards import cards_of
from servingplan.planning.settings import unwritten
from servingplan.profiles.catalogue import Catalogue, find_gpu
from servingplan.render import flags
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.simulate.prefixes import PART_TOKENS
from servingplan.simulate.sequence import Sequence


class Work(NamedTuple):
    """The work of engines."""

    busy_seconds: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    """The prompt tokens that were looked up in prefix caches."""
    prefix_hits: int = 0
    """Those of them that were found."""


class Replica:
    """One engine of a Service, with the requests that are in it."""

    __slots__ = (
        "before",
        "engine",
        "least_free_blocks",
        "node",
        "open",
        "place",
        "since",
        "taken",
        "until",
        "up",
    )

    def __init__(self, place: int, engine: Engine, node: tuple[str, int]) -> None:
        self.place = place
        """The place of its replica set in the fleet."""
        self.engine = engine
        self.node = node
        """The pool and the number of its node."""
        self.open: dict[Sequence, int] = {}
        """The requests that it has not answered yet, with the number of their class."""
        self.up = True
        self.taken = 0
        """The number of requests that it was given."""
        self.least_free_blocks = engine.free_blocks
        self.before = Work()
        """The work of the engines that it had before a loss."""
        self.since = 0.0
        """When it was added, in seconds from the first arrival."""
        self.until: float | None = None
        """When it was given back; None if it exists at the end."""

    @property
    def work(self) -> Work:
        """What it has done, with the engines that it had before."""
        tally, before = self.engine.tally, self.before
        return Work(
            before.busy_seconds + tally.busy_seconds,
            before.preemptions + tally.preemptions,
            before.prefix_queries + tally.prefix_queries,
            before.prefix_hits + tally.prefix_hits,
        )

    def replace(self, engine: Engine) -> None:
        """Put an idle engine in the place of one that was lost."""
        self.before, self.engine = self.work, engine


class Shapes:
    """Makes engines of a fleet's shapes. Equal ones share the table of their times."""

    def __init__(self, spec: PlanSpec, catalogue: Catalogue | None = None) -> None:
        found, errors = cards_of(spec, catalogue)
        if errors:
            raise errors[0]
        self._cards = {(model.name, variant.name): (model, variant, card) for model, variant, card in found}
        self._catalogue = catalogue
        self._paces: dict[str, Pace] = {}

    def engine(self, item: ReplicaSet) -> Engine:
        """An idle engine of a replica set.

        Raises:
            InputError: it spans nodes, or cannot exist.
        """
        if item.stages:
            raise InputError("plan", item.deployment, "spans nodes; a replay knows only replicas inside one node")
        model, variant, card = self._cards[item.model, item.variant]
        settings = item.settings or unwritten(model)
        key = f"{item.model}/{item.variant}/{item.gpu}/{item.tensor_parallel}/{item.pipeline_parallel}/{settings!r}"
        if key not in self._paces:
            self._paces[key] = Pace(
                model=card,
                precision=variant.precision,
                gpu=find_gpu(item.gpu, catalogue=self._catalogue),
                tensor_parallel=item.tensor_parallel,
                pipeline_parallel=item.pipeline_parallel,
                settings=settings,
            )
        return Engine(
            self._paces[key],
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=max(settings.max_num_batched_tokens, settings.max_num_seqs),
            prefix_cache_hit_share=settings.prefix_cache_hit_share,
            part_tokens=PART_TOKENS if _keeps_prefixes(model, card) else None,
        )


def replicas_of(fleet: Fleet, shapes: Shapes) -> list[Replica]:
    """The replicas of a fleet in the order of its replica sets, placed according to its node groups."""
    places = _nodes_of(fleet)
    return [
        Replica(place, shapes.engine(item), nodes[copy] if copy < len(nodes) else (item.pool, -1))
        for place, item in enumerate(fleet.replica_sets)
        for nodes in [places.get(item.deployment, [])]
        for copy in range(item.replicas)
    ]


def _keeps_prefixes(model: Model, card: ModelCard) -> bool:
    """Whether the engine shares prefixes: unless the plan's arguments say that it does not, or layers have windows or a
    recurrent state, whose blocks the simulation cannot share."""
    if flags.read(model.engine.extra_args).value(flags.PREFIX_CACHING) is False:
        return False
    return card.sliding_window is None and not card.state_bytes


def _nodes_of(fleet: Fleet) -> Mapping[str, list[tuple[str, int]]]:
    """The node of every copy, by Deployment."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    numbers: dict[str, int] = defaultdict(int)
    for group in fleet.groups:
        for _ in range(group.nodes):
            number = numbers[group.pool]
            numbers[group.pool] += 1
            for deployment, count in group.replicas.items():
                found[deployment] += [(group.pool, number)] * count
    return found
