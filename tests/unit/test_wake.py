"""What wakes a plan: changes that its turns would read, and no others."""

import pytest

from servingplan.handlers.wake import Interest, News, Watchers, _slice_facts
from servingplan.kube import CONFIG_MAPS, ENDPOINT_SLICES

INTEREST = Interest(namespace="llm", label="chat", selectors=(), nodes=frozenset())


def slice_of(*ready, namespace="llm", plan="chat", **metadata):
    labels = {"servingplan.dev/plan": plan, "kubernetes.io/service-name": "chat-m"}
    return {
        "metadata": {"name": "x", "uid": "u", "namespace": namespace, "labels": labels, **metadata},
        "endpoints": [{"targetRef": {"kind": "Pod", "uid": uid}, "conditions": {"ready": True}} for uid in ready],
    }


@pytest.mark.parametrize(
    ("item", "wakes"),
    [(slice_of(), True), (slice_of(plan="other"), False), (slice_of(namespace="elsewhere"), False)],
)
def test_endpoint_slices_wake_their_own_plan_alone(item, wakes):
    assert INTEREST.concerns(News.of(ENDPOINT_SLICES, item)) is wakes


def test_an_endpoint_slice_is_news_when_other_pods_are_ready_in_it_and_not_when_it_is_only_written():
    watchers, known = Watchers(api=None, settings=None, ring=None), {}
    touched = {"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}}
    lives = [slice_of(), slice_of("a"), slice_of("a", **touched), slice_of("a", "b"), slice_of("b", "a"), slice_of("b")]
    assert [watchers._is_news(known, "MODIFIED", item, _slice_facts) for item in lives] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert watchers._is_news(known, "DELETED", lives[-1], _slice_facts)


@pytest.mark.parametrize(
    ("name", "namespace", "wakes"), [("rates", "llm", True), ("others", "llm", False), ("rates", "elsewhere", False)]
)
def test_measured_rates_wake_the_plans_that_name_them(name, namespace, wakes):
    interest = Interest(namespace="llm", label="chat", selectors=(), nodes=frozenset(), profiles=frozenset({"rates"}))
    labels = {"servingplan.dev/profiles": "measured"}
    item = {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": {}}
    assert interest.concerns(News.of(CONFIG_MAPS, item)) is wakes
