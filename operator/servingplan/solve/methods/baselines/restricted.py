"""Baselines of Jiang et al. (ICML 2025), section 5.1 and figure 8: the exact method with one choice restricted.

As in the paper, the other choices are optimised by the same algorithm as for the full plan. The bounds are those of the full
question.
"""

from collections.abc import Collection
from dataclasses import replace

from servingplan.solve.bounds.certificate import certified
from servingplan.solve.plan.judge import empty_plan, judge
from servingplan.solve.plan.plan import Found, Plan, best_of
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import EQUAL


def homogeneous(instance: Instance, effort: Effort) -> Found:
    """The best fleet that uses the nodes of one pool only, over all pools. The stock is limited, unlike in the paper."""
    plans: list[Plan | None] = [empty_plan(instance)]
    pools = [p for p in range(len(instance.pools)) if instance.on_pool[p]]
    for position, p in enumerate(pools):
        alone = [c for c in instance.on_pool[p] if len(instance.shapes[c].gpus) == 1]
        plans.append(_searched(instance, effort.share(1.0 / (len(pools) - position)), keep=alone))
    return certified(instance, effort, best_of(plans))


def uniform_composition(instance: Instance, effort: Effort) -> Found:
    """The best plan within as many nodes of each pool as of any other, as far as stock and budget allow."""
    nodes = [pool.min_nodes for pool in instance.pools]
    dollars = instance.floor_dollars()
    open_pools = list(range(len(instance.pools)))
    while open_pools:
        p = min(open_pools, key=lambda p: (nodes[p], p))
        price = instance.pools[p].dollars_per_node_hour
        if nodes[p] >= instance.nodes_limit[p] or dollars + price > instance.question.budget_dollars_per_hour * (
            1 + EQUAL
        ):
            open_pools.remove(p)
            continue
        nodes[p] += 1
        dollars += price
    pools = tuple(pool.model_copy(update={"max_nodes": n}) for pool, n in zip(instance.pools, nodes, strict=True))
    evenly = replace(instance, pools=pools, nodes_limit=tuple(nodes))
    return certified(instance, effort, best_of([empty_plan(instance), _searched(evenly, effort)]))


def uniform_deployment(instance: Instance, effort: Effort) -> Found:
    """The best plan in which each model uses only its largest shape on every pool: tensor parallelism for all replicas.

    If nodes have several GPUs, it is the largest shape inside a node. If every node has one GPU, the question does not say what
    a machine is, and it is the largest shape of all.
    """
    gpus = [sum(shape.gpus.values()) for shape in instance.shapes]
    index = instance.pool_index
    largest: dict[tuple[str, tuple[str, ...]], int] = {}
    for shape, count in zip(instance.shapes, gpus, strict=True):
        machines = [instance.pools[index[name]].gpus_per_node for name in shape.gpus]
        if max(machines) == 1 or all(used <= most for used, most in zip(shape.gpus.values(), machines, strict=True)):
            pair = (shape.model, tuple(shape.gpus))
            largest[pair] = max(largest.get(pair, 0), count)
    kept = [c for c, s in enumerate(instance.shapes) if gpus[c] == largest.get((s.model, tuple(s.gpus)))]
    return certified(instance, effort, best_of([empty_plan(instance), _searched(instance, effort, keep=kept)]))


def _searched(instance: Instance, effort: Effort, *, keep: Collection[int] | None = None) -> Plan | None:
    """The best plan with these shapes only; None if there is none."""
    kept = set(range(len(instance.shapes)) if keep is None else keep)
    limit = tuple(most if c in kept else 0 for c, most in enumerate(instance.copies_limit))
    found = guarded_search(replace(instance, copies_limit=limit), effort)
    return judge(instance, found.plan.copies) if found.plan else None
