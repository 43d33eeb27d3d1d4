"""Boundaries between classes: those of the plan as written, else derived from the declared lengths."""

from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.api.matching import class_of, default_class, matching_order
from servingplan.api.models_v1alpha1 import Match, Model, RequestClass

thorough = settings(max_examples=100)
tokens = st.integers(1, 60)


def a_class(name, input_tokens, output_tokens=100, **match):
    return RequestClass(
        name=name, input_tokens=input_tokens, output_tokens=output_tokens, requests_per_second=1, match=Match(**match)
    )


def order(*classes):
    return matching_order(Model(name="m", classes=classes))


def matches(*classes):
    return [(item.name, item.match.model_dump(exclude_none=True)) for item in order(*classes)]


def test_the_boundary_is_in_the_middle_rounded_up():
    assert matches(a_class("chat", 496), a_class("long-in", 2455)) == [
        ("long-in", {"input_tokens_at_least": 1476}),
        ("chat", {}),
    ]


def test_what_a_plan_says_holds_as_written():
    given_classes = (a_class("chat", 496), a_class("long-in", 2455, input_tokens_at_least=2000))
    assert order(*given_classes) == given_classes


def test_answers_decide_only_among_prompts_of_one_length():
    assert matches(a_class("essay", 500, 900), a_class("long", 900, 40), a_class("word", 500, 1)) == [
        ("long", {"input_tokens_at_least": 700}),
        ("word", {"max_tokens_at_most": 450}),
        ("essay", {}),
    ]


def test_a_request_without_max_tokens_counts_as_a_long_answer():
    classes = order(a_class("word", 500, 1), a_class("essay", 500, 900))
    assert class_of(classes, input_tokens=500) == "essay"
    assert class_of(classes, input_tokens=500, max_tokens=450) == "word"
    assert class_of(classes, input_tokens=500, max_tokens=451) == "essay"


def test_classes_of_the_same_lengths_are_told_apart_by_the_header():
    classes = order(a_class("fast", 500), a_class("cheap", 500))
    assert [item.match for item in classes] == [Match(header="fast"), Match()]
    assert class_of(classes, input_tokens=7, header="fast") == "fast"
    assert class_of(classes, input_tokens=7) == "cheap"


def test_one_class_takes_everything():
    assert matches(a_class("all", 500)) == [("all", {})]
    assert [item.name for item in matching_order(Model(name="m"))] == ["default"]


def test_the_rest_goes_to_the_last_class_without_a_match_wherever_it_stands():
    assert default_class((a_class("rest", 5), a_class("long", 9, input_tokens_at_least=8))) == "rest"
    assert default_class((a_class("a", 5, header="a"), a_class("b", 9, header="b"))) == "b"


@thorough
@given(st.lists(st.tuples(tokens, tokens), unique=True, min_size=1, max_size=6))
def test_a_request_of_a_classs_own_lengths_gets_that_class(lengths):
    classes = order(*(a_class(f"c{number}", *pair) for number, pair in enumerate(lengths)))
    assert sorted(item.name for item in classes) == sorted(f"c{number}" for number in range(len(lengths)))
    for number, (input_tokens, output_tokens) in enumerate(lengths):
        assert class_of(classes, input_tokens=input_tokens, max_tokens=output_tokens) == f"c{number}"


@thorough
@given(st.lists(tokens, unique=True, min_size=1, max_size=6), tokens)
def test_prompts_go_to_the_nearest_length(lengths, prompt):
    classes = order(*(a_class(f"c{length}", length) for length in lengths))
    nearest = min(lengths, key=lambda length: (abs(length - prompt), -length))
    assert class_of(classes, input_tokens=prompt) == f"c{nearest}"
