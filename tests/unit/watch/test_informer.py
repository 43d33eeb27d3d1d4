"""One kind of object kept in memory: never older than our last write, whatever happens to lists and watches."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import ApiError, Forbidden, Gone, NotFound
from servingplan.kube import CONFIG_MAPS
from servingplan.rehearse.api_server import ApiServer
from servingplan.watch.informer import UNLISTED_SECONDS, Informer, Source

AWAY = ApiError(0, "Unreachable", "connection reset")


def facts_of(item):
    return None if item["value"] is None else (item["metadata"]["name"], item["value"])


def informer_of(server, *, optional=False, news=None, clock=lambda: 0.0):
    source = Source("things", lambda api: api.discover("v1", "ConfigMap"), facts_of, optional=optional)

    def changed(source, before, after):
        if news is not None:
            news.append((before, after))

    return Informer(server, source, changed=changed, clock=clock)


def step(informer):
    """As its thread does."""
    informer.attempt()


def values(informer):
    return dict(informer.facts)


def test_it_lists_by_pages_and_then_only_watches():
    server = ApiServer()
    for name in "abcde":
        server.put(name, 1)
    made = informer_of(server)
    assert not made.settled
    step(made)
    assert (values(made), made.settled) == (dict.fromkeys("abcde", 1), True)
    server.put("b", 2)
    server.remove("c")
    step(made)
    step(made)
    assert values(made) == {"a": 1, "b": 2, "d": 1, "e": 1}
    assert (server.lists, server.watches) == (1, 3)


def test_a_version_that_is_too_old_is_listed_anew_and_what_went_meanwhile_is_told():
    server, news = ApiServer(), []
    server.put("a", 1)
    server.put("b", 1)
    made = informer_of(server, news=news)
    step(made)
    server.remove("a")
    server.put("c", 1)
    server.compact()
    news.clear()
    step(made)
    assert values(made) == {"a": 1, "b": 1}, "what was last seen stays until the list is there"
    step(made)
    assert values(made) == {"b": 1, "c": 1}
    assert sorted(news, key=str) == [(("a", 1), None), (None, ("c", 1))]
    assert server.lists == 2


def test_lists_that_are_always_too_old_to_be_ended_are_told_as_other_troubles_are():
    """The next page of a list expires when the API server is slow; then nothing new is ever read."""
    server, now = ApiServer(), 0.0
    server.put("a", 1)
    made = informer_of(server, clock=lambda: now)
    step(made)
    server.faults = [Gone(410, "Expired", "The provided continue parameter is too old")] * 2
    now = 100.0
    step(made)
    now = 200.0
    step(made)
    assert made.health.trouble.since == 100.0
    assert values(made) == {"a": 1}
    step(made)
    assert made.health.trouble is None


def test_a_write_of_ours_is_there_before_the_watch_tells_of_it():
    server = ApiServer()
    server.put("a", 1)
    made = informer_of(server)
    step(made)
    made.wrote(server.put("a", 2))
    assert values(made) == {"a": 2}
    made.deleted(server.remove("a"))
    assert values(made) == {}
    step(made)
    assert values(made) == {}


def test_an_event_of_before_our_write_changes_nothing():
    server, news = ApiServer(), []
    server.put("a", 1)
    made = informer_of(server, news=news)
    step(made)
    server.put("a", 2)
    made.wrote(server.put("a", 3))
    news.clear()
    server.tells_at_most = 1
    step(made)
    assert (values(made), news) == ({"a": 3}, [])


def test_an_answer_that_comes_after_the_word_of_the_end_brings_nothing_back():
    """A pod that is deleted may be gone, and its end told, before the answer to our request has been read."""
    server = ApiServer()
    server.put("a", 1)
    made = informer_of(server)
    step(made)
    answer = server.put("a", 2)
    server.remove("a")
    step(made)
    made.wrote(answer)
    assert values(made) == {}


def test_what_we_made_again_takes_the_place_of_what_others_removed_before_the_watch_tells_of_it():
    """Otherwise two objects of one name are held, and whoever looks for the name may find the one that is gone."""
    server, news = ApiServer(), []
    made = informer_of(server, news=news)
    made.wrote(server.put("a", 1))
    server.remove("a")
    made.wrote(server.put("a", 2))
    assert made.facts == [("a", 2)]
    assert news == [(None, ("a", 1)), (("a", 1), None), (None, ("a", 2))]
    step(made)
    assert made.facts == [("a", 2)]


def test_a_late_answer_about_a_predecessor_changes_nothing():
    server = ApiServer()
    made = informer_of(server)
    late = server.put("a", 1)
    server.remove("a")
    made.wrote(server.put("a", 2))
    made.wrote(late)
    assert made.facts == [("a", 2)]


def test_what_we_made_again_while_a_list_is_under_way_is_held_once():
    server = ApiServer(page_size=1)
    for name in "abc":
        server.put(name, 1)
    made = informer_of(server)

    def again():
        server.remove("a")
        made.wrote(server.put("a", 2))

    server.between_pages = [again]
    made.load()
    assert sorted(made.facts) == [("a", 2), ("b", 1), ("c", 1)]


def test_an_answer_that_comes_after_a_list_without_the_object_brings_nothing_back():
    server = ApiServer()
    answer = server.put("a", 1)
    server.remove("a")
    server.compact()
    made = informer_of(server)
    step(made)
    made.wrote(answer)
    assert values(made) == {}


def test_a_write_of_ours_while_a_list_is_under_way_is_not_lost():
    server = ApiServer(page_size=1)
    for name in "abc":
        server.put(name, 1)
    made = informer_of(server)
    written = []
    server.between_pages = [
        lambda: written.append(made.wrote(server.put("a", 2))),
        lambda: made.deleted(server.remove("b")),
        lambda: written.append(made.wrote(server.put("d", 1))),
    ]
    server.tells_at_most = 0
    step(made)
    assert values(made) == {"a": 2, "c": 1, "d": 1}


def test_what_is_not_news_is_not_told():
    server, news = ApiServer(), []
    server.put("a", 1)
    made = informer_of(server, news=news)
    step(made)
    server.put("a", 1)
    step(made)
    assert news == [(None, ("a", 1))]


def test_what_does_not_matter_any_more_is_not_held():
    server = ApiServer()
    server.put("a", 1)
    made = informer_of(server)
    step(made)
    server.put("a", None)
    step(made)
    assert values(made) == {}


def test_what_was_seen_last_counts_while_the_api_server_is_away():
    server, now = ApiServer(), [0.0]
    server.put("a", 1)
    made = informer_of(server, clock=lambda: now[0])
    step(made)
    server.faults = [AWAY, AWAY]
    now[0] = 5.0
    step(made)
    now[0] = 9.0
    step(made)
    assert (values(made), made.health.trouble.since, made.health.contact) == ({"a": 1}, 5.0, 0.0)
    step(made)
    assert (made.health.trouble, made.health.contact) == (None, 9.0)


def test_a_kind_that_may_be_absent_is_known_to_be_absent_and_found_when_it_comes():
    server = ApiServer()
    server.put("a", 1)
    made = informer_of(server, optional=True)
    step(made)
    server.faults = [NotFound(404, "NotFound", "gone")]
    step(made)
    assert (made.health.absent, made.settled, values(made)) == (True, True, {})
    step(made)
    assert (made.health.absent, values(made)) == (False, {"a": 1})


def test_what_may_not_be_read_is_known_not_to_be_readable():
    server = ApiServer()
    server.faults = [Forbidden(403, "Forbidden", "no")]
    made = informer_of(server)
    step(made)
    assert made.settled
    assert made.health.synced is False


def test_a_kind_that_an_installation_leaves_out_is_logged_once(caplog):
    """Its right is refused for as long as the operator runs."""
    for optional, times in ((True, 1), (False, 3)):
        caplog.clear()
        server = ApiServer()
        made = informer_of(server, optional=optional)
        server.faults = [Forbidden(403, "Forbidden", "cannot list things")] * 3
        for _ in range(3):
            step(made)
        assert caplog.text.count("cannot list things") == times
        assert made.settled


def test_what_cannot_be_listed_is_not_waited_for_for_ever():
    server, now = ApiServer(), [0.0]
    server.faults = [AWAY, AWAY]
    made = informer_of(server, clock=lambda: now[0])
    step(made)
    assert not made.settled
    now[0] = UNLISTED_SECONDS + 1
    step(made)
    assert made.settled
    assert (made.health.synced, made.health.trouble.error) == (False, AWAY)


def test_a_kind_that_was_removed_is_not_asked_for_without_pause(monkeypatch):
    """It was asked for 20,000 times a second once."""
    server = ApiServer()
    made = informer_of(server, optional=True)
    server.faults = [NotFound(404, "NotFound", "gone")] * 9
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 9:
            made.stop()

    monkeypatch.setattr(made._stopped, "wait", wait)
    made.run()
    assert waited == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_an_object_that_cannot_be_understood_does_not_hide_the_others(caplog):
    server = ApiServer()
    server.put("a", 1)
    server.put("b", 1)
    source = Source("things", lambda api: CONFIG_MAPS, lambda item: {"b": 1}[item["metadata"]["name"]])
    made = Informer(server, source)
    step(made)
    assert made.facts == [1]
    assert "a cannot be parsed" in caplog.text


NAMES = st.sampled_from("abcd")
ACTS = st.one_of(
    st.tuples(st.just("theirs"), NAMES, st.integers(0, 5)),
    st.tuples(st.just("ours"), NAMES, st.integers(0, 5)),
    st.tuples(st.just("ours, answered late"), NAMES, st.integers(0, 5)),
    st.tuples(st.just("the answers come"), st.none(), st.none()),
    st.tuples(st.just("they remove"), NAMES, st.none()),
    st.tuples(st.just("we remove"), NAMES, st.none()),
    st.tuples(st.just("compact"), st.none(), st.none()),
    st.tuples(st.just("fail"), st.sampled_from([AWAY, ApiError(429, "Busy", "x")]), st.none()),
    st.tuples(st.just("cut off"), st.integers(0, 2), st.none()),
    st.tuples(st.just("look"), st.none(), st.none()),
)


@given(st.lists(ACTS, max_size=40), st.lists(st.tuples(NAMES, st.integers(6, 9)), max_size=3))
def test_nothing_is_ever_seen_as_it_was_before_our_last_write(acts, while_listing):
    """Whatever others write, whichever requests fail, wherever a watch is cut off, and whenever history is forgotten."""
    server = ApiServer(page_size=1)
    made = informer_of(server)
    ours: dict[str, int] = {}
    late = []

    def write(name, value):
        item = server.put(name, value)
        made.wrote(item)
        ours[name] = int(item["metadata"]["resourceVersion"])

    def deliver():
        while late:
            made.wrote(late.pop(0))

    def check():
        with made._lock:
            versions = {entry.facts[0]: entry.version for entry in made._entries.values()}
            assert len(versions) == len(made._entries), "two objects have one name"
        for name, version in ours.items():
            known = versions.get(name)
            assert known is not None, f"our write of {name} is gone"
            assert known >= version, f"{name} is seen as of {known}, and we wrote {version}"

    for name, value in while_listing:
        server.between_pages.append(lambda name=name, value=value: write(name, value))
    for kind, what, value in acts:
        if kind == "theirs":
            server.put(what, value)
        elif kind == "ours":
            write(what, value)
        elif kind == "ours, answered late":
            late.append(server.put(what, value))
        elif kind == "the answers come":
            deliver()
        elif kind == "they remove" and what in server.values:
            server.remove(what)
            ours.pop(what, None)
        elif kind == "we remove" and server.uid(what) in made.versions():
            made.deleted(server.remove(what))
            ours.pop(what, None)
            assert what not in values(made)
        elif kind == "compact":
            server.compact()
        elif kind == "fail":
            server.faults.append(what)
        elif kind == "cut off":
            server.tells_at_most = what
        elif kind == "look":
            step(made)
        check()
    deliver()
    server.faults, server.tells_at_most, server.between_pages = [], None, []
    for _ in range(3):
        step(made)
    assert values(made) == server.values
    with contextlib.suppress(Gone):
        made.once()
