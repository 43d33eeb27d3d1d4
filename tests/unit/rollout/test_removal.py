"""A Deployment loses the pods that are meant, whatever order the ReplicaSet controller would choose."""

import itertools

from servingplan.rollout.removal import group_index, remove, remove_groups
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


def test_a_pod_that_the_controller_has_been_told_to_take_is_not_deleted_as_well():
    """The number was lowered on the turn before, and the controller has not acted yet."""
    drained = pod("a", "n", draining_since=SINCE)
    found = remove(pods=(drained,), replicas=0, target=0, victims=doomed(drained))
    assert (found.replicas, found.delete) == (0, ())


def test_the_number_is_not_lowered_again_for_a_pod_that_is_about_to_go():
    """Else the controller, once it looks, would take one that serves."""
    drained, others = pod("a", "n", draining_since=SINCE), (pod("b", "n"), pod("c", "n"))
    found = remove(pods=(drained, *others), replicas=2, target=1, victims=doomed(drained))
    assert (found.replicas, found.delete) == (2, ())


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


# --- groups: the controller takes them from the highest index down --------------------------------------------------------


def group(index, on=None, **more):
    return pod(f"d-{index}", on, **more)


def test_the_last_group_goes_by_count():
    first, last = group(0, "n1"), group(1, "n2", draining_since=SINCE)
    found = remove_groups(pods=(first, last), replicas=2, target=1, victims=doomed(last))
    assert (found.replicas, found.delete) == (1, ())


def test_one_below_it_goes_by_name_and_its_place_stays():
    first, last = group(0, "n1", draining_since=SINCE), group(1, "n2")
    found = remove_groups(pods=(first, last), replicas=2, target=1, victims=doomed(first))
    assert (found.replicas, found.delete) == (2, (first,))


def test_its_successor_waits_for_no_node_and_is_left_alone():
    spare, serving = group(0), group(1, "n2")
    found = remove_groups(pods=(spare, serving), replicas=2, target=1, victims=doomed(spare))
    assert (found.replicas, found.delete) == (2, ())


def test_spare_groups_at_the_top_go_by_count():
    serving, spare, another = group(0, "n1"), group(1), group(2)
    found = remove_groups(pods=(serving, spare, another), replicas=3, target=1, victims=doomed(spare, another))
    assert (found.replicas, found.delete) == (1, ())


def test_of_groups_that_wait_whichever_is_on_top_goes():
    wanted, spare = group(0), group(1)
    found = remove_groups(pods=(wanted, spare), replicas=2, target=1, victims=doomed(wanted))
    assert (found.replicas, found.delete) == (1, ())


def test_groups_that_are_not_there_go_by_count_and_never_below_the_target():
    assert remove_groups(pods=(group(0, "n1"),), replicas=4, target=2, victims=()).replicas == 2
    assert remove_groups(pods=(), replicas=2, target=0, victims=()).replicas == 0


def test_no_group_that_may_not_go_falls_to_any_removal_of_groups():
    for states in itertools.product(("serves", "doomed", "spare", "lost"), repeat=3):
        pods = {
            index: group(index, None if state == "spare" else f"n{index}")
            for index, state in enumerate(states)
            if state != "lost"
        }
        victims = doomed(*(pods[index] for index, state in enumerate(states) if state in ("doomed", "spare")))
        found = remove_groups(pods=tuple(pods.values()), replicas=3, target=0, victims=victims)
        gone = {item.uid for index, item in pods.items() if index >= found.replicas} | doomed(*found.delete)
        assert gone <= victims, states
        assert victims - gone <= {item.uid for item in pods.values() if item.node is None}, states


def test_the_index_stands_in_the_name_of_every_pod_of_a_group():
    assert [group_index(pod(name)) for name in ("d-0", "d-12", "d-12-3")] == [0, 12, 12]
