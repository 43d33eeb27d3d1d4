"""Names that the API server takes, that people recognise, and that never meet by accident."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servingplan.model import names

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # a Service's: begins with a letter
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

plans = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", fullmatch=True)
models = st.one_of(st.from_regex(r"[!-~]{1,128}", fullmatch=True), st.text(min_size=1, max_size=128))
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
thorough = settings(max_examples=100)


@thorough
@given(plans, models, digests)
@example("0" * 63, "/" * 128, "0" * 64)
@example("9.9", "Ünïcödé/模型", "f" * 64)
@example("a-" * 31 + "a", "m", "a" * 64)
@example("1" + "-" * 61 + "1", "m", "a" * 64)
def test_a_deployment_is_named_by_a_dns_label_with_room_for_its_pods(plan, model, digest):
    name = names.deployment_name(plan, model, digest)
    assert len(name) <= 46
    assert DNS_LABEL.fullmatch(name)
    assert name.endswith(f"-{digest[:6]}")
    assert name == names.deployment_name(plan, model, digest)


def test_a_deployment_is_named_so_that_people_recognise_it():
    assert names.deployment_name("chat", "llama-3.1-70b", "3fa9c1" + "0" * 58) == "chat-llama-3-1-70b-3fa9c1"
    assert names.deployment_name("7b", "m", "3fa9c1" + "0" * 58) == "p7b-m-3fa9c1"


@pytest.mark.slow
@thorough
@given(plans, models, digests, digests)
def test_another_replica_is_another_deployment(plan, model, one, other):
    same = names.deployment_name(plan, model, one) == names.deployment_name(plan, model, other)
    assert same == (one[:6] == other[:6])


@thorough
@given(st.text(min_size=1, max_size=200))
@example("x" * 64)
@example("org/model")
@example("-")
def test_a_label_value_is_one(text):
    value = names.label_value(text)
    assert len(value) <= 63
    assert LABEL_VALUE.fullmatch(value)


@thorough
@given(st.sets(st.one_of(models, plans, st.text("aA/._-", min_size=1, max_size=8)), min_size=2, max_size=8))
@example({"org/model", "org.model", "org-model", "Org/model", "org//model"})
def test_two_texts_never_share_a_label_value(texts):
    assert len({names.label_value(text) for text in texts}) == len(texts)


def test_a_text_that_is_a_label_value_stays_as_it_is():
    for text in ("chat", "Llama-3.1-70B", "a_b.c", "x" * 63):
        assert names.label_value(text) == text


@thorough
@given(st.text(max_size=80), st.integers(1, 60))
def test_a_slug_is_never_empty_nor_too_long(text, longest):
    slug = names.slug(text, longest)
    assert 1 <= len(slug) <= longest
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", slug)


def test_config_maps_of_a_plan_do_not_meet():
    assert names.routing_name("chat", None) == "chat-routing"
    assert names.routing_name("chat", "mine") == "mine"
    assert names.record_name("chat") == "chat-plan"
