"""The feed of the end-to-end stories: events of all kinds in one order, whichever watch is late."""

import json
import threading
from types import SimpleNamespace

import pytest

from e2e.support.feed import Feed
from servingplan.kube import NODES, PODS


def item(name, version):
    return {"metadata": {"uid": name, "name": name, "resourceVersion": str(version)}}


class Store:
    """An API server whose watches tell what it holds when the test lets them."""

    def __init__(self):
        self.revision = 1
        self.objects = {"nodes": {}, "pods": {"old": item("old", 1)}}
        self.untold = {"nodes": [], "pods": []}
        self.changed = threading.Condition()
        self.may_tell = {"nodes"}
        self.configuration = SimpleNamespace(host="", get_api_key_with_prefix=lambda _: None)
        self.rest_client = SimpleNamespace(pool_manager=self)

    def write(self, plural, name, *, gone=False):
        with self.changed:
            self.revision += 1
            found = item(name, self.revision)
            kind = "DELETED" if gone else "MODIFIED" if name in self.objects[plural] else "ADDED"
            if gone:
                del self.objects[plural][name]
            else:
                self.objects[plural][name] = found
            self.untold[plural].append({"type": kind, "object": found})

    def let_tell(self, plural):
        with self.changed:
            self.may_tell.add(plural)
            self.changed.notify_all()

    def request(self, _method, url, *, fields, **_):
        plural = url.rpartition("/")[2]
        if "watch" in fields:
            return SimpleNamespace(stream=lambda _: self._stream(plural), close=lambda: None)
        with self.changed:
            items = list(self.objects[plural].values())
            listed = {"metadata": {"resourceVersion": str(self.revision)}, "items": items}
            return SimpleNamespace(data=json.dumps(listed).encode())

    def _stream(self, plural):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: plural in self.may_tell and self.untold[plural], 0.02)
                told = self.untold[plural] if plural in self.may_tell else []
                if told:
                    self.untold[plural] = []
            yield b"".join(json.dumps(event).encode() + b"\n" for event in told)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def feed(store):
    with Feed(store, [NODES, PODS]) as running:
        yield running


@pytest.mark.parametrize(("pod", "gone"), [("new", False), ("old", False), ("old", True)])
def test_an_event_waits_for_an_older_one_of_a_watch_that_is_late(store, feed, pod, gone):
    heard = []
    feed.listen(lambda _at, _kind, _change, item: heard.append(item["metadata"]["name"]), lambda now: None)
    heard.clear()
    store.write("pods", pod, gone=gone)
    store.write("nodes", "node")
    while store.untold["nodes"]:
        threading.Event().wait(0.01)
    threading.Event().wait(0.3)  # some rounds of lists
    assert heard == []
    store.let_tell("pods")
    feed.catch_up()
    assert heard == [pod, "node"]


def test_to_catch_up_is_to_have_heard_of_all_that_happened_before(store, feed):
    store.let_tell("pods")
    heard = []
    feed.listen(lambda _at, _kind, _change, item: heard.append(item["metadata"]["name"]), lambda now: None)
    heard.clear()
    for number in range(5):
        store.write("nodes" if number % 2 else "pods", str(number))
        feed.catch_up()
        assert heard == [str(done) for done in range(number + 1)]
