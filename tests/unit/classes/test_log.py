"""Logs in every format that is read: what each row tells, and what a row says that tells nothing."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.classes.json_stream import array_items, line_values
from servingplan.classes.log import read_log
from servingplan.classes.request import BadRow, FieldError, Request, length, seconds, tokens_in
from servingplan.emulate import text
from servingplan.errors import InputError

thorough = settings(max_examples=100)

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,0,1087,API log
118.5,GPT-4,417,276,693,Conversation log
"""
SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "human", "value": "x" * 40},
            {"from": "gpt", "value": "y" * 9},
            {"from": "human", "value": "z" * 3},
            {"from": "gpt", "value": "w" * 400},
        ],
    },
    {"id": "b", "conversations": [{"from": "gpt", "value": "unasked"}]},
    {"id": "c", "conversations": []},
]
WILDCHAT = {
    "conversation_id": "c",
    "model": "gpt-4",
    "timestamp": "2023-04-10T00:01:08+00:00",
    "conversation": [
        {"role": "user", "content": "x" * 8, "timestamp": "2023-04-10T00:00:08+00:00"},
        {"role": "assistant", "content": "y" * 8},
    ],
}


def rows(written, size=1 << 16):
    return list(read_log([written[at : at + size] for at in range(0, len(written), size)], name="log").rows)


ACCESS = {
    "start_time": "2026-01-01T00:00:00.250Z",
    "method": "POST",
    "path": "/v1/chat/completions",
    "response_code": 200,
    "duration": 1200,
    "gen_ai.request.model": "llama-3.1-8b",
    "gen_ai.usage.input_tokens": "374",
    "gen_ai.usage.output_tokens": "44",
}
MOONCAKE = {"timestamp": 27482, "input_length": 6755, "output_length": 500, "hash_ids": [46, 47, 2353]}


def format_of(written):
    return read_log([written], name="log").format


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (AZURE, "Azure LLM inference trace"),
        (BURST, "BurstGPT"),
        (json.dumps(SHAREGPT), "ShareGPT"),
        (lines(WILDCHAT), "WildChat"),
        (json.dumps([WILDCHAT]), "WildChat"),
        ("t_s,input_tokens,output_tokens\n0.0,1,2\n", "table"),
        (json.dumps({"input_lens": [1], "output_lens": [2]}, indent=1), "vLLM benchmark result"),
        (lines(MOONCAKE), "Mooncake trace"),
        (lines(ACCESS), "Envoy AI Gateway access log"),
        (lines({"prompt": "p", "output_tokens": 3}), "requests with texts (vLLM, OpenAI)"),
        (lines({"prompt_tokens": 3, "completion_tokens": 3}), "requests with token counts"),
    ],
)
def test_the_format_is_told_by_columns_and_keys(written, name):
    assert format_of(written) == name


def test_azure_traces():
    first, second = rows(AZURE)
    assert first[:3] == (374, 44, None)
    assert second.at_seconds - first.at_seconds == pytest.approx(4.314579, abs=1e-6)
    assert rows(AZURE_2024)[0].at_seconds == pytest.approx(1715299200.00993)


def test_burstgpt_counts_failures_apart():
    first, failed, last = rows(BURST)
    assert first == Request(472, 18, None, 5.0, "ChatGPT")
    assert str(failed) == "line 3: Response tokens: '0': must be from 1 to 10000000 tokens"
    assert last == Request(417, 276, None, 118.5, "GPT-4")


def test_a_conversation_is_a_request_per_answer_with_all_that_was_said_before():
    found = rows(json.dumps(SHAREGPT))
    assert found[:2] == [Request(10, 3), Request(13, 100)]
    assert [row.why for row in found[2:]] == ["an answer without a prompt", "it has no answer"]


def test_wildchat_has_models_and_times():
    assert rows(lines(WILDCHAT)) == [Request(2, 2, None, 1681084868.0, "gpt-4")]


def test_times_of_mooncake_traces_are_milliseconds_and_prompts_are_named_by_parts():
    assert rows(lines(MOONCAKE)) == [Request(6755, 500, None, 27.482, prefix=(46, 47, 2353))]


@pytest.mark.parametrize("names", ["46", [46, "47"], [1.5], [True], [46, 46]])
def test_parts_of_prompts_that_are_no_names_are_told_by_line(names):
    (bad,) = rows(lines({**MOONCAKE, "hash_ids": names}))
    assert isinstance(bad, BadRow)
    assert str(bad).startswith("line 1: hash_ids: ")


def test_access_logs_of_envoys_ai_gateway_have_tokens_where_an_answer_came():
    refused = {**ACCESS, "response_code": 429, "gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None}
    answered, other = rows(lines(ACCESS, refused))
    assert answered == Request(374, 44, None, 1767225600.25, "llama-3.1-8b")
    assert "nothing tells the length of the prompt" in other.why


def test_vllm_benchmark_results_may_stand_on_many_lines():
    result = {
        "model_id": "m",
        "input_lens": [7, 0],
        "output_lens": [9, 1],
        "start_times": [0.5, 1.0],
        "errors": ["", ""],
    }
    good, bad = rows(json.dumps(result, indent=2))
    assert good == Request(7, 9, None, 0.5, "m")
    assert (bad.column, bad.value) == ("input_lens[1]", 0)


def test_request_logs_count_tokens_where_they_have_them_and_characters_elsewhere():
    found = rows(
        lines(
            {"prompt": "x" * 41, "output_tokens": 7},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 12}]}], "response": "y" * 5},
            {"model": "m", "max_tokens": 64, "usage": {"prompt_tokens": 5, "completion_tokens": 6}, "created": 12},
            {"body": {"prompt": "long" * 99, "prompt_tokens": 3, "max_tokens": 9}, "output_len": 1},
            {"prompt": "x", "choices": [{"message": {"content": "y" * 8}}], "sampling_params": {"max_tokens": 4}},
            {"prompt": "x"},
            {"prompt": "x", "response": ""},
            [1],
        )
    )
    assert found[:5] == [
        Request(11, 7),
        Request(3, 2),
        Request(5, 6, 64, 12.0, "m"),
        Request(3, 1, 9),
        Request(1, 2, 4),
    ]
    assert [row.why for row in found[5:]] == [
        "nothing tells the length of the answer",
        "must be from 1 to 10000000 tokens",
        "is no object",
    ]


def test_tables_take_other_names_separators_and_quotes():
    written = '\n\ufeff"Prompt Tokens";output-tokens;max_tokens;Timestamp\n"1";2.0;16;1700000000000\n\n3;4;;\n'.lstrip()
    assert rows(written) == [Request(1, 2, 16, 1.7e9), Request(3, 4)]


@pytest.mark.parametrize("bound", ["", "0", "-1", "none"])
def test_a_bound_that_bounds_nothing_is_not_declared(bound):
    assert rows(f"input_tokens,output_tokens,max_tokens\n3,4,{bound}\n") == [Request(3, 4)]


def test_bad_rows_are_named_by_line_and_column_and_the_rest_is_read():
    written = "time,input_tokens,output_tokens\n1,x,2\nnoon,1,2\n1\n1,1.5,2\n1,-4,2\n1,nan,2\n1,99999999,2\n1,8,9\n"
    *bad, good = rows(written)
    assert good == Request(8, 9, None, 1.0)
    assert [(row.line, row.column) for row in bad] == [
        (2, "input_tokens"),
        (3, "time"),
        (4, "row"),
        (5, "input_tokens"),
        (6, "input_tokens"),
        (7, "input_tokens"),
        (8, "input_tokens"),
    ]


def test_lines_that_are_no_json_are_skipped():
    written = (
        lines({"prompt_tokens": 1, "output_tokens": 2}) + "{broken\n\n" + lines({"prompt_tokens": 3, "output_len": 4})
    )
    first, bad, last = rows(written)
    assert (first, last) == (Request(1, 2), Request(3, 4))
    assert bad == BadRow(2, "value", "{broken", "is no JSON")


def test_a_first_line_that_is_no_json_spoils_itself_alone():
    written = "{broken\n" + lines({"prompt_tokens": 3, "output_len": 4})
    bad, good = rows(written)
    assert bad.line == 1
    assert good == Request(3, 4)


def test_an_array_that_breaks_off_keeps_what_came_before():
    first, bad = rows('[{"prompt_tokens": 3, "output_len": 4},\n {"prompt_tokens": 5')
    assert first == Request(3, 4)
    assert (bad.line, bad.why) == (2, "is no JSON; what follows is not read")


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("", "the file is empty"),
        (" \n ", "the file is empty"),
        ("a,b\n1,2\n", "no column tells the length of prompts"),
        ("input_tokens,b\n1,2\n", "no column tells the length of answers"),
        ("[]", "holds no request"),
        ('{"a": 1}\n', "no key tells the lengths"),
        ("[1, 2]", "no key tells the lengths"),
        ("\x00\x01\x02 not a log", "no column tells"),
        ("374,44\n", "no column tells"),
    ],
)
def test_what_is_no_log_is_refused_with_what_is_known(written, named):
    with pytest.raises(InputError, match=named) as caught:
        rows(written)
    assert "input_tokens" in str(caught.value)


@thorough
@given(st.text(max_size=60) | st.sampled_from([AZURE, BURST, json.dumps(SHAREGPT), lines(WILDCHAT)]), st.randoms())
def test_garbage_ends_in_rows_or_in_an_error_that_says_so(written, source):
    broken = list(written)
    for _ in range(source.randrange(4)):
        if broken:
            broken[source.randrange(len(broken))] = source.choice('"{}[],\x00\ud800\n9')
    try:
        found = rows("".join(broken), size=source.randrange(1, 50))
    except InputError:
        return
    assert all(isinstance(row, Request | BadRow) for row in found)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@thorough
@given(st.lists(json_values, max_size=6), st.integers(1, 30), st.booleans())
def test_arrays_and_lines_come_out_as_they_went_in_whatever_the_pieces(values, size, pretty):
    written = json.dumps(values, indent=1 if pretty else None)
    found = array_items(written[at : at + size] for at in range(0, len(written), size))
    assert [value for _, value in found] == values
    by_line = lines(*values)
    found = line_values(by_line[at : at + size] for at in range(0, len(by_line), size))
    assert list(found) == list(enumerate(values, start=1))


def test_a_value_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr("servingplan.classes.json_stream.LONGEST_VALUE", 1000)
    read = []
    (_, bad), *rest = array_items(read.append(1) or '[{"a": "' + "x" * 100 for _ in range(1000))
    assert isinstance(bad, BadRow)
    assert rest == []
    assert len(read) < 60


def test_lines_give_their_numbers_in_arrays():
    assert [line for line, _ in array_items(['[\n{"a":\n1},\n{"b":2}\n]'])] == [2, 4]


@pytest.mark.parametrize("characters", [1, 3, 4, 5, 4096])
def test_texts_count_as_the_emulator_counts_them(characters):
    assert tokens_in(characters) == text.tokens_of(characters)


def test_times_are_seconds_milliseconds_or_dates():
    assert seconds("t", "12.5") == 12.5
    assert seconds("t", 1_700_000_000_000) == seconds("t", 1_700_000_000) == seconds("t", "2023-11-14T22:13:20Z")
    for later in (1_700_000_000_000_000, 1_700_000_000_000_000_000):
        assert seconds("t", later) == pytest.approx(1_700_000_000)
    with pytest.raises(FieldError):
        seconds("t", "yesterday")


def test_lengths_are_whole_numbers_in_range():
    assert [length("n", value) for value in (1, "7", 8.0, "9.0")] == [1, 7, 8, 9]
    for value in (0, -1, "1.5", "", None, True, "inf", 10**7 + 1):
        with pytest.raises(FieldError):
            length("n", value)


def test_random_bytes_are_no_log():
    source = random.Random(7)
    garbage = bytes(source.randrange(256) for _ in range(100_000)).decode(errors="replace")
    with pytest.raises(InputError):
        rows(garbage)
