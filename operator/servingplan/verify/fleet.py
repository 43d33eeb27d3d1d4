"""Checks that nodes and copies are within their limits and fit each other."""

from collections import Counter
from collections.abc import Iterator

from servingplan.model.answer import Placement
from servingplan.verify.case import Case, above, same


def nodes(case: Case) -> Iterator[str]:
    """The pools that are outside their floor or their cap."""
    for name, pool in case.pools.items():
        count = case.answer.nodes.get(name)
        if count is None:
            yield f"nodes.{name} is missing; every pool must be listed"
        elif not pool.min_nodes <= count <= pool.max_nodes:
            yield f"nodes.{name} is {count}; it must be between min_nodes {pool.min_nodes} and max_nodes {pool.max_nodes}"


def budget(case: Case) -> Iterator[str]:
    """The faults of the dollars: the nodes cost other than the answer says, or more than the budget."""
    told, budget = case.answer.dollars_per_hour, case.question.budget_dollars_per_hour
    if told is None or not same(told, case.dollars):
        yield f"dollars_per_hour is {told}; the nodes cost {case.dollars}"
    if above(case.dollars, budget):
        yield f"the nodes cost {case.dollars} $/h, above budget_dollars_per_hour {budget}"


def quotas(case: Case) -> Iterator[str]:
    """The quotas with fewer GPUs than the copies on their pools hold."""
    for quota in case.question.quotas:
        held = case.gpus_on(quota.pools)
        if held > quota.max_gpus:
            pools = ", ".join(quota.pools)
            yield f"the copies on {pools} hold {held} GPUs, above max_gpus {quota.max_gpus} of quota {quota.name!r}"


def copies(case: Case) -> Iterator[str]:
    """The shapes with more copies than they may have."""
    for name, count in case.answer.replicas.items():
        most = case.shapes[name].max_copies
        if most is not None and count > most:
            yield f"replicas.{name} is {count}, above max_copies {most}"


def placements(case: Case) -> Iterator[str]:
    """The faults of the node groups: they must hold exactly the copies, fit their nodes and cover all nodes."""
    nodes: Counter[str] = Counter()
    placed: Counter[tuple[str, str]] = Counter()
    for group in case.answer.placements:
        yield from _group_fits(case, group)
        nodes[group.pool] += group.nodes
        for name, count in group.replicas.items():
            placed[group.pool, name] += count
    for name in case.pools:
        if nodes[name] != case.answer.nodes.get(name, 0):
            yield f"placements cover {nodes[name]} nodes of pool {name!r}; nodes.{name} is {case.answer.nodes.get(name)}"
    for name, shape in case.shapes.items():
        count = case.answer.replicas.get(name, 0)
        for pool in shape.gpus:
            if placed[pool, name] != count:
                yield f"placements hold {placed[pool, name]} copies of {name!r} on {pool!r}; replicas.{name} is {count}"


def _group_fits(case: Case, group: Placement) -> Iterator[str]:
    where = f"placements: {group.nodes} nodes of {group.pool!r} with {dict(group.replicas)}"
    per_node = case.pools[group.pool].gpus_per_node
    used = 0
    for name, count in group.replicas.items():
        gpus = case.shapes[name].gpus.get(group.pool)
        if gpus is None:
            yield f"{where}: shape {name!r} does not run on this pool"
        elif gpus > per_node:
            if len(group.replicas) > 1 or group.nodes * per_node != count * gpus:
                yield f"{where}: {name!r} takes {gpus // per_node} whole nodes for each of {count} copies"
        elif not group.nodes or count % group.nodes:
            yield f"{where}: {count} copies of {name!r} do not spread evenly over the nodes"
        else:
            used += gpus * (count // group.nodes)
    if used > per_node:
        yield f"{where}: {used} GPUs per node, above gpus_per_node {per_node}"
