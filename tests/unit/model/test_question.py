"""A question says what is wrong with it: the field, the value, what to do."""

import json

import pytest

from servingplan.model.answer import answer_from_json
from servingplan.model.question import Question, QuestionError, canonical_json, question_from_json
from tests.unit.solve.questions import EXAMPLES, random_question, worked_example


def document():
    return json.loads((EXAMPLES / "p1-worked-example.json").read_text())


def refused(data):
    with pytest.raises(QuestionError) as caught:
        question_from_json(data if isinstance(data, str) else json.dumps(data))
    return str(caught.value)


def changed(path, value):
    data = document()
    target = data
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return data


BAD = [
    (["budget_dollars_per_hour"], -1, "budget_dollars_per_hour"),
    (["budget_dollars_per_hour"], "8", "budget_dollars_per_hour: '8'"),
    (["budget_dollars_per_hour"], True, "budget_dollars_per_hour: true"),
    (["budget_dollars_per_hour"], None, "budget_dollars_per_hour: missing"),
    (["objective"], "Fastest", "objective"),
    (["version"], 2, "version"),
    (["pools"], [], "pools"),
    (["classes"], [], "classes"),
    (["shapes"], [], "no shape serves it"),
    (["surprise"], 1, "surprise: unknown key"),
    (["pools", 0, "gpu"], 1, "pools.0.gpu: unknown key"),
    (["pools", 0, "name"], "t2", "'t2' is used twice"),
    (["pools", 0, "min_nodes"], 3, "min_nodes 3 exceeds max_nodes 2"),
    (["pools", 0, "max_nodes"], 1.5, "pools.0.max_nodes: 1.5"),
    (["pools", 0, "gpus_per_node"], 0, "pools.0.gpus_per_node: 0"),
    (["classes", 0, "requests_per_second"], -80, "classes.0.requests_per_second: -80"),
    (["shapes", 0, "gpus"], {}, "shapes.0.gpus"),
    (["shapes", 0, "gpus"], {"t1": 0}, "shapes.0.gpus.t1: 0"),
    (["shapes", 0, "gpus"], {"t9": 1}, "names pool 't9'"),
    (["shapes", 0, "requests_per_second"], {"w1": 0}, "shapes.0.requests_per_second.w1: 0"),
    (["shapes", 0, "requests_per_second"], {}, "shapes.0.requests_per_second"),
    (["shapes", 0, "requests_per_second"], {"w9": 1}, "names class 'w9'"),
    (["shapes", 0, "quality_loss"], {"w9": 0.1}, "quality_loss names class 'w9'"),
    (["shapes", 0, "max_utilization"], 1.5, "max_utilization"),
    (["shapes", 0, "max_utilization"], [], "max_utilization"),
    (["shapes", 0, "model"], "other", "of model 'm'"),
    (["running"], {"nodes": {"t9": 1}}, "running.nodes names pool 't9'"),
    (["change"], {"life_seconds": 0}, "change.life_seconds: 0"),
    (["survive"], [{"event": "Flood"}], "survive.0.event"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_a_fault_is_named(path, value, message):
    assert message in refused(changed(path, value))


def test_gpus_beyond_a_node_are_whole_nodes():
    data = changed(["pools", 1, "gpus_per_node"], 2)
    data["shapes"][3]["gpus"] = {"t2": 3}
    assert "are not whole nodes" in refused(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400])
@pytest.mark.parametrize("field", ["budget_dollars_per_hour", "dollars_per_node_hour", "requests_per_second"])
def test_a_number_that_is_not_finite_is_refused(number, field):
    text = (EXAMPLES / "p1-worked-example.json").read_text()
    key = f'"{field}": '
    start = text.index(key) + len(key)
    end = min(text.index(mark, start) for mark in ",}" if mark in text[start:])
    if text[start] == "{":
        start = text.index(": ", start) + 2
    refused(text[:start] + number + text[end:])


def test_zero_rates_throughout_are_no_mix():
    data = document()
    for cls in data["classes"]:
        cls["requests_per_second"] = 0
    assert "every requests_per_second is 0" in refused(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"version": 1, "version": 1}', "\ud800", "[" * 100_000])
def test_what_is_no_question_is_refused(text):
    assert refused(text)


def test_every_fault_has_a_line():
    data = document()
    data["pools"][0]["max_nodes"] = -1
    data["classes"][1]["requests_per_second"] = "many"
    assert len(refused(data).splitlines()) == 2


def test_order_is_forgotten():
    data = document()
    for name in ("pools", "classes", "shapes"):
        data[name].reverse()
    assert question_from_json(json.dumps(data)) == worked_example()


@pytest.mark.parametrize("seed", range(30))
def test_canonical_text_is_stable(seed):
    question = random_question(seed, survive=True, running=True)
    text = canonical_json(question)
    again = question_from_json(text)
    assert again == question
    assert canonical_json(again) == text


def test_a_question_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        worked_example().budget_dollars_per_hour = 9.0


def test_every_field_is_documented():
    schema = Question.model_json_schema()
    for noun in (schema, *schema["$defs"].values()):
        for name, field in noun.get("properties", {}).items():
            assert field.get("description"), name


def test_an_answer_with_an_unknown_key_is_refused():
    with pytest.raises(QuestionError, match="surprise: unknown key"):
        answer_from_json('{"status": "Optimal", "method": "x", "surprise": 1}')
