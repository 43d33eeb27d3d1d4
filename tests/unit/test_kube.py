"""The adapter to the API server: what is tried again, for how long, and what is not."""

import types

import pytest
import urllib3.exceptions

from servingplan import kube
from servingplan.errors import ApiError
from servingplan.kube import CONFIG_MAPS, EVENTS, Kube


class Pool:
    """A connection pool that answers as it is told, one answer a request; the last one again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.body = b"{}"

    def request(self, method, url, **_):
        self.requests.append(method)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        return types.SimpleNamespace(status=status, headers=headers, data=self.body, close=lambda: None)


AWAY = urllib3.exceptions.ProtocolError("connection reset")


@pytest.fixture
def slept(monkeypatch):
    """Time passes by sleeping alone."""
    found = []
    monkeypatch.setattr(kube.time, "sleep", found.append)
    monkeypatch.setattr(kube.time, "monotonic", lambda: sum(found))
    return found


def adapter(pool):
    configuration = types.SimpleNamespace(host="", get_api_key_with_prefix=lambda _: None)
    return Kube(
        types.SimpleNamespace(rest_client=types.SimpleNamespace(pool_manager=pool), configuration=configuration)
    )


def test_a_server_that_is_busy_is_left_alone_for_as_long_as_it_asks(slept):
    pool = Pool((429, {"Retry-After": "2"}), 200)
    adapter(pool).get(CONFIG_MAPS, "x", namespace="n")
    assert (len(pool.requests), slept) == (2, [2.0])


@pytest.mark.parametrize("fault", [502, 503, 504, AWAY])
def test_what_may_do_better_in_a_moment_is_tried_again_with_growing_pauses(slept, fault):
    pool = Pool(fault, fault, fault, 200)
    adapter(pool).merge(CONFIG_MAPS, "x", {}, manager="m", namespace="n")
    assert slept == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("fault", [400, 403, 404, 409, 422, 500])
def test_a_refusal_is_final(slept, fault):
    pool = Pool(fault)
    with pytest.raises(ApiError):
        adapter(pool).get(CONFIG_MAPS, "x", namespace="n")
    assert (len(pool.requests), slept) == (1, [])


def test_what_may_have_been_made_is_not_made_twice(slept):
    pool = Pool(AWAY)
    with pytest.raises(ApiError):
        adapter(pool).create(EVENTS, {}, namespace="n")
    assert len(pool.requests) == 1


def test_a_server_that_stays_away_is_given_up_within_the_turn(slept):
    pool = Pool(503)
    with pytest.raises(ApiError):
        adapter(pool).get(CONFIG_MAPS, "x", namespace="n")
    assert 1 < len(pool.requests) < 10
    assert sum(slept) <= kube.RETRY_SECONDS


def test_a_server_that_asks_for_more_than_a_turn_has_is_told_with_its_wish(slept):
    with pytest.raises(ApiError) as caught:
        adapter(Pool((429, {"Retry-After": "30"}))).get(CONFIG_MAPS, "x", namespace="n")
    assert (caught.value.retry_after_seconds, slept) == (30.0, [])


@pytest.mark.parametrize("asked", ["86400", "1e400", "99999999999999999999"])
def test_nobody_is_left_alone_for_longer_than_some_minutes(asked):
    """Something between us and the API server may ask for a day, or for more than a clock can wait."""
    with pytest.raises(ApiError) as caught:
        next(adapter(Pool((429, {"Retry-After": asked}))).watch(CONFIG_MAPS))
    assert caught.value.retry_after_seconds == kube.LONGEST_RETRY_AFTER_SECONDS


def test_a_server_that_does_not_answer_is_told_in_words():
    assert str(ApiError(0, "Unreachable", "GET /apis: refused")) == "the API server does not answer: GET /apis: refused"
    assert str(ApiError(0, "NotLeading", "no lease")) == "NotLeading: no lease"
    assert str(ApiError(403, "Forbidden", "no")) == "403 Forbidden: no"


def test_an_answer_that_is_no_json_is_an_api_error(slept):
    """As that of a proxy which answers in the API server's place."""
    pool = Pool(200)
    pool.body = b"<html>please log in</html>"
    with pytest.raises(ApiError) as caught:
        adapter(pool).get(CONFIG_MAPS, "x", namespace="n")
    assert "is no JSON" in str(caught.value)


def test_a_watch_that_is_refused_tells_how_long_the_server_wants_to_be_left_alone():
    with pytest.raises(ApiError) as caught:
        next(adapter(Pool((429, {"Retry-After": "5"}))).watch(CONFIG_MAPS))
    assert caught.value.retry_after_seconds == 5.0


@pytest.mark.parametrize(
    ("resource", "silence"), [(CONFIG_MAPS, kube.SILENCE_SECONDS), (EVENTS, kube.WATCH_SECONDS + 30)]
)
def test_a_watch_without_bookmarks_may_be_silent_for_as_long_as_it_lasts(resource, silence):
    """The API server keeps no cache of Events, and so sends no bookmarks of them."""
    asked = []

    class Silent(Pool):
        def request(self, method, url, **options):
            asked.append(options["timeout"].read_timeout)
            raise AWAY

    with pytest.raises(ApiError):
        next(adapter(Silent(200)).watch(resource))
    assert asked == [silence]
