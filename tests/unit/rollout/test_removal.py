"""A Deployment loses the pods that are meant, whatever order the ReplicaSet controller would choose."""

import itertools

from servingplan.rollout.removal import remove
from tests.unit.rollout.builders import pod

SINCE = "2026-01-01T00:59:00Z"


def doomed(*pods):
    return {item.uid for item in pods}


def test_a_pod_that_was_never_placed_goes_by_count():
    waiting, serving = pod("a"), pod("b", "n")
    found = remove(pods=(waiting, serving), replicas=2, target=1, victims=doomed(waiting))
    assert (found.replicas, found.delete) == (1, ())


def test_a_drained_pod_goes_by_count_when_all_others_serve():
    drained, serving = pod("a", "n", draining_since=SINCE), pod("b", "n")
    found = remove(pods=(drained, serving), replicas=2, target=1, victims=doomed(drained))
    assert (found.replicas, found.delete) == (1, ())


def test_a_drained_pod_goes_by_name_where_the_count_would_take_a_starting_one():
    drained, starting = pod("a", "n", draining_since=SINCE), pod("b", "n", ready=False)
    found = remove(pods=(drained, starting), replicas=2, target=1, victims=doomed(drained))
    assert (found.replicas, found.delete) == (2, (drained,))


def test_a_pod_that_was_placed_and_never_came_to_its_node_goes_by_name_where_the_count_would_take_its_successor():
    """Somebody else took its place on the node. By count the ReplicaSet controller takes the youngest, so never this one."""
    stranded, successor = pod("a", "n", bound=False), pod("b")
    found = remove(pods=(stranded, successor), replicas=2, target=1, victims=doomed(stranded))
    assert (found.replicas, found.delete) == (2, (stranded,))
    alone = remove(pods=(stranded,), replicas=1, target=0, victims=doomed(stranded))
    assert (alone.replicas, alone.delete) == (0, ())


def test_a_drained_pod_goes_by_name_where_the_count_could_take_one_whose_drain_begins():
    """Both have the same deletion cost once this turn is written, so the ReplicaSet controller takes the youngest."""
    drained, begins = pod("a", "n", draining_since=SINCE), pod("b", "n")
    found = remove(pods=(drained, begins), replicas=2, target=0, victims=doomed(drained), begin=doomed(begins))
    assert (found.replicas, found.delete) == (2, (drained,))


def test_copies_that_have_no_pod_yet_are_given_up_first():
    found = remove(pods=(pod("a", "n"),), replicas=3, target=1, victims=set())
    assert (found.replicas, found.delete) == (1, ())


def test_nobody_goes_without_leave():
    found = remove(pods=(pod("a", "n"), pod("b", "n")), replicas=2, target=0, victims=set())
    assert (found.replicas, found.delete) == (2, ())


def kubernetes_removes(pods, count):
    """ReplicaSet controller's order: unassigned, not ready, then by deletion cost."""
    order = sorted(pods, key=lambda item: (item.bound, item.ready, 0 if item.draining_since else 1))
    return order[:count]


def test_the_count_never_takes_a_pod_that_may_not_go_and_no_pod_is_taken_twice():
    kinds = {
        "gated": pod("x"),
        "starting": pod("x", "n", ready=False),
        "draining": pod("x", "n", draining_since=SINCE),
        "serving": pod("x", "n"),
    }
    for chosen in itertools.product(kinds, [True, False], repeat=3):
        pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
        pods = tuple(
            kinds[kind].model_copy(update={"name": f"{index}", "uid": f"{index}"})
            for index, (kind, _) in enumerate(pairs)
        )
        victims = {item.uid for item, (_, goes) in zip(pods, pairs, strict=True) if goes}
        for target in range(4):
            found = remove(pods=pods, replicas=3, target=target, victims=victims)
            lowered = 3 - found.replicas
            taken = kubernetes_removes(pods, lowered)
            alike = {item.uid for item in pods if not item.bound}
            assert all(item.uid in victims or item.uid in alike for item in taken), (chosen, target)
            assert sum(not item.bound for item in taken) <= len(alike & victims)
            assert not set(taken) & set(found.delete)
            assert found.replicas >= min(3, target)
            assert {item.uid for item in found.delete} <= victims
