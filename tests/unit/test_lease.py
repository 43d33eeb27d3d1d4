"""One operator acts at a time: what a Lease promises, whatever the order of steps and whoever stands still."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import ApiError, Conflict, NotFound
from servingplan.lease import ALL, DURATION_SECONDS, LEASES, RENEW_SECONDS, Keeper, Lease


class Server:
    """Leases by name, with versions that writes must name."""

    def __init__(self):
        self.leases = {}
        self.versions = itertools.count(1)
        self.away = False

    def _answer(self):
        if self.away:
            raise ApiError(0, "Unreachable", "away")

    def get(self, resource, name, *, namespace):
        assert (resource, namespace) == (LEASES, "kube-system")
        self._answer()
        if name not in self.leases:
            raise NotFound(404, "NotFound", name)
        found = self.leases[name]
        return {"metadata": dict(found["metadata"]), "spec": dict(found["spec"])}

    def list(self, resource, *, namespace, labels):
        self._answer()
        assert "managed-by=servingplan" in labels
        return iter([self.get(resource, name, namespace=namespace) for name in sorted(self.leases)])

    def create(self, resource, manifest, *, namespace):
        self._answer()
        name = manifest["metadata"]["name"]
        if name in self.leases:
            raise Conflict(409, "AlreadyExists", name)
        metadata = {**manifest["metadata"], "resourceVersion": str(next(self.versions))}
        self.leases[name] = {"metadata": metadata, "spec": manifest["spec"]}

    def merge(self, resource, name, patch, *, manager, namespace):
        self._answer()
        found = self.leases[name]
        if patch["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", name)
        found["spec"] = {**found["spec"], **patch["spec"]}
        found["metadata"] = {**found["metadata"], "resourceVersion": str(next(self.versions))}


class Scene:
    """Candidates and a clock."""

    def __init__(self):
        self.server, self.now = Server(), 0.0

    def candidate(self, identity, *namespaces):
        return Lease(
            self.server,
            namespace="kube-system",
            namespaces=namespaces,
            identity=identity,
            clock=lambda: self.now,
            wall=lambda: f"2026-01-01T00:00:{self.now:09.6f}Z",
        )


def test_the_first_has_it_and_the_second_says_whom_it_waits_for():
    scene = Scene()
    one, two = scene.candidate("one"), scene.candidate("two")
    assert (one.step(), two.step()) == (True, False)
    assert (one.held, two.held) == (True, False)
    assert two.waiting_for == f"one (lease kube-system/{ALL})"


def test_a_leader_that_dies_is_followed_within_fifteen_seconds():
    scene = Scene()
    one, two = scene.candidate("one"), scene.candidate("two")
    one.step()
    while not two.step():
        scene.now += 2
    assert scene.now <= 15
    assert not one.held


def test_a_leader_that_ends_in_order_is_followed_at_once():
    scene = Scene()
    one, two = scene.candidate("one"), scene.candidate("two")
    one.step()
    two.step()
    one.release()
    assert (one.held, two.step()) == (False, True)


def test_a_leader_that_cannot_renew_stops_before_another_begins():
    assert RENEW_SECONDS < DURATION_SECONDS
    scene = Scene()
    one, two = scene.candidate("one"), scene.candidate("two")
    one.step()
    two.step()
    scene.server.away = True
    scene.now += RENEW_SECONDS - 0.1
    assert one.step(), "one failed renewal is no reason to stop"
    scene.now += 0.2
    assert not one.step()
    assert not one.held


@pytest.mark.parametrize(("first", "second"), [((), ("llm",)), (("llm",), ()), (("llm", "b"), ("a", "llm"))])
def test_installations_for_the_same_namespaces_exclude_each_other_whatever_their_leases_are_called(first, second):
    scene = Scene()
    one, two = scene.candidate("one", *first), scene.candidate("two", *second)
    assert one.step()
    scene.now += 1
    assert not two.step()
    assert "one" in two.waiting_for
    assert one.step()
    one.release()
    scene.now += 1
    assert two.step()


def test_installations_for_other_namespaces_do_not():
    scene = Scene()
    assert scene.candidate("one", "a").step()
    assert scene.candidate("two", "b").step()


SCOPES = st.sampled_from([(), ("a",), ("b",), ("a", "b")])
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["step", "step", "pause", "away", "back", "release"])), max_size=60
)


@given(st.tuples(SCOPES, SCOPES, SCOPES), STEPS, st.lists(st.floats(0, 6), min_size=60, max_size=60))
def test_no_two_that_look_after_one_namespace_act_at_a_time(scopes, steps, pauses):
    """Also while the API server is away, and when one stands still for any time. Clocks that drift less than
    DURATION - RENEW over a duration change nothing."""
    scene = Scene()
    made = [scene.candidate(str(index), *scope) for index, scope in enumerate(scopes)]

    def overlap(left, right):
        return not left or not right or set(left) & set(right)

    for (index, what), pause in zip(steps, pauses, strict=False):
        if what == "step":
            made[index].step()
        elif what == "release":
            made[index].release()
        elif what == "pause":
            scene.now += pause
        else:
            scene.server.away = what == "away"
        acting = [at for at, lease in enumerate(made) if lease.held]
        for left, right in itertools.combinations(acting, 2):
            assert not overlap(scopes[left], scopes[right]), f"{left} and {right} act"


def test_nothing_ends_the_keeper_of_a_lease_that_is_still_held(monkeypatch):
    """Else the process would go on for ever, without a lease and without a word."""
    monkeypatch.setattr("servingplan.lease.PERIOD_SECONDS", 0.01)
    scene, lost = Scene(), []
    keeper = Keeper(scene.candidate("one"), lost=lambda: lost.append(True))
    keeper.start()
    assert keeper.wait(60)
    tried = threading.Event()

    def fails():
        tried.set()
        raise OSError("the token cannot be read")

    with monkeypatch.context() as broken:
        broken.setattr(keeper.lease, "step", fails)
        assert tried.wait(60)
    keeper._thread.join(0.05)
    assert keeper._thread.is_alive()
    scene.server.away = True  # first: else it may be renewed at the later time
    scene.now += RENEW_SECONDS + 1
    keeper._thread.join(60)
    assert lost == [True]


def test_the_keeper_tells_once_when_it_is_won_and_once_when_it_is_lost(monkeypatch):
    monkeypatch.setattr("servingplan.lease.PERIOD_SECONDS", 0.01)
    scene, lost = Scene(), []
    keeper = Keeper(scene.candidate("one"), lost=lambda: lost.append(True))
    keeper.start()
    assert keeper.wait(60)
    scene.server.away = True
    scene.now += RENEW_SECONDS + 1
    keeper._thread.join(60)
    assert lost == [True]
