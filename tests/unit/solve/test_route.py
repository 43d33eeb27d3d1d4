"""The best routing of given copies, which is found once."""

from dataclasses import replace

from servingplan.solve import solve
from servingplan.solve.plan import routing as module
from servingplan.solve.plan.routing import route
from servingplan.solve.problem.instance import instance_of
from tests.unit.solve.test_anytime import large


def test_a_plan_is_routed_once_however_often_it_is_weighed_and_reported(monkeypatch):
    routed, alive = [], []
    real = module._routed

    def counted(instance, copies, targets):
        alive.append(instance)  # or another would get its identity
        routed.append((id(instance), tuple(copies), tuple(targets)))
        return real(instance, copies, targets)

    monkeypatch.setattr(module, "_routed", counted)
    solve(large("MinimizeCost"), method="anytime", relative_gap=0.02)
    assert routed
    assert len(routed) == len(set(routed))


def test_other_copies_other_targets_and_other_instances_are_routed_anew():
    instance = instance_of(large("MinimizeCost"))
    copies = [min(2, limit) for limit in instance.copies_limit]
    targets = instance.reachable_targets
    whole = route(instance, copies, targets)
    halved = [target / 2 for target in targets]
    assert not route(instance, [0] * len(copies), targets)
    assert sum(route(instance, copies, halved).values()) < sum(whole.values())
    poorer = replace(instance, classes=instance.classes[:1])
    assert {k for _, k in route(poorer, copies, targets[:1])} == {0}
    assert route(instance, copies, targets) == whole
