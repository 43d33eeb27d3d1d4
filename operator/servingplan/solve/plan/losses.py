"""Losses that a plan must survive: which events there are, and whether a plan stands them.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `exact` guards the program against these
losses; contents of lost nodes are added only when a plan that was found does not stand them, because most never matter.
"""

from collections.abc import Sequence

from servingplan.solve.plan.plan import Contents
from servingplan.solve.plan.routing import kept_part
from servingplan.solve.problem.constraints import Loss, sizes_on
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import all_contents
from servingplan.solve.solver.tolerance import HELD


def protected_from(instance: Instance, event: str) -> tuple[int, ...]:
    """Classes that some rule protects from this event."""
    floors = [rule.min_priority for rule in instance.question.survive if rule.event == event]
    return tuple(k for k, cls in enumerate(instance.classes) if floors and cls.priority >= min(floors))


def protected(instance: Instance) -> tuple[int, ...]:
    """Classes that some rule protects from any event: they must be served in full."""
    floors = [rule.min_priority for rule in instance.question.survive]
    return tuple(k for k, cls in enumerate(instance.classes) if floors and cls.priority >= min(floors))


def spot_losses(instance: Instance) -> list[Loss]:
    """The loss of all Spot pools at once, where a rule asks for it."""
    classes = protected_from(instance, "SpotPools")
    spot = {pool.name for pool in instance.pools if pool.capacity_type == "Spot"}
    gone = frozenset(c for c, shape in enumerate(instance.shapes) if spot & shape.gpus.keys())
    return [Loss(name="spot", protected=classes, gone=gone)] if classes and gone else []


def node_losses(instance: Instance, copies: Sequence[int], contents: Contents) -> list[Loss]:
    """One loss per distinct content of a node that this plan uses, where a rule asks for it."""
    classes = protected_from(instance, "AnyNode")
    losses = []
    for p, pool in enumerate(instance.pools) if classes else ():
        used = [content for content, count in contents[p] if count]
        used += [((c, 1),) for c in sizes_on(instance, p)[1] if copies[c]]
        for content in used:
            label = ".".join(f"{count}x{instance.shapes[c].name}" for c, count in content)
            losses.append(Loss(name=f"{pool.name}.{label}", protected=classes, pool=p, lost=content))
    return losses


def every_node_loss(instance: Instance, *, most: int) -> list[Loss]:
    """The loss of a node with any content there could be; none at all where there are more than `most` contents."""
    contents = []
    for p, pool in enumerate(instance.pools):
        sizes, _ = sizes_on(instance, p)
        ways = all_contents(sizes, pool.gpus_per_node, pool=pool.name) if sizes else []
        contents.append(tuple((content, 1) for content in ways))
    losses = node_losses(instance, [int(limit > 0) for limit in instance.copies_limit], tuple(contents))
    return losses if len(losses) <= most else []


def survivable_part(instance: Instance, losses: Sequence[Loss], copies: Sequence[int], rates: Sequence[float]) -> float:
    """Largest part, at most 1, of `rates` (requests/s by class) that protected classes keep after any one of the losses."""
    parts = [1.0]
    for loss in losses:
        lost = {**dict(loss.lost), **{c: copies[c] for c in loss.gone}}
        parts.append(kept_part(instance, copies, rates, lost=lost, protected=loss.protected))
    return min(parts)


def survivable_targets(
    instance: Instance, copies: Sequence[int], contents: Contents, targets: tuple[float, ...]
) -> tuple[float, ...] | None:
    """Targets at which these copies may be routed so that protected classes keep what they have after any loss.

    Under MaximizeService the copies may carry a larger scale than they can keep after a loss: the targets are lowered to
    what they can keep. Under MinimizeCost protected classes are served in full, or the plan breaks its promise: None.
    """
    losses = spot_losses(instance) + node_losses(instance, copies, contents)
    if not losses:
        return targets
    if instance.question.objective == "MinimizeCost":
        asked = [cls.requests_per_second for cls in instance.classes]
        return targets if survivable_part(instance, losses, copies, asked) >= 1.0 - HELD else None
    part = survivable_part(instance, losses, copies, targets)
    return tuple(target * part for target in targets) if part > 0 else None
