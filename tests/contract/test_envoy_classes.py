"""Ten thousand bodies and headers through a real Envoy: each goes where an independent classifier says, none crashes it.

The classifier reads the body with Python's parser. Where the two parsers differ on what JSON is, Envoy is the stricter
one, and ``parsed`` says how.
"""

import json
import math
import random
from collections import Counter

import pytest

from e2e.support.gateway import Gateway, Replicas, request

pytestmark = pytest.mark.cluster
NUMBER = 10_000
BYTES_PER_TOKEN = 3.5
MODELS = {
    "meta/llama-3.1-70b": (
        "chat",
        {
            "gold": {"header": "gold-customers"},
            "gold-long": {"header": "tenant-7", "inputTokensAtLeast": 40},
            "long-in": {"inputTokensAtLeast": 100},
            "short-out": {"maxTokensAtMost": 64},
            "mid": {"inputTokensAtLeast": 30, "maxTokensAtMost": 256},
            "chat": {},
        },
    ),
    "qwen": ("short", {"long": {"inputTokensAtLeast": 60}, "short": {"maxTokensAtMost": 16}}),
    'odd"name\\{}': ("all", {"all": {}}),
}
INT64, UINT64 = 2**63 - 1, 2**64 - 1


def service(model, class_name):
    return f"s{list(MODELS).index(model)}-{class_name}"


def document():
    models = {
        name: {
            "defaultClass": default,
            "classes": [
                {
                    "name": item,
                    "match": match,
                    "admitRequestsPerSecond": None,
                    "targets": [{"service": service(name, item), "port": 8000, "weight": 10000}],
                }
                for item, match in classes.items()
            ],
        }
        for name, (default, classes) in MODELS.items()
    }
    names = [service(name, item) for name, (_, classes) in MODELS.items() for item in classes]
    return {
        "version": 1,
        "plan": "llm/chat",
        "planHash": "9f2c0a11",
        "revision": 1,
        "transitional": False,
        "bytesPerToken": BYTES_PER_TOKEN,
        "clientHeaders": "Trust",
        "services": [{"service": name, "port": 8000} for name in names],
        "models": models,
    }


# --- the independent classifier -------------------------------------------------------------------------------------


class UnreadableError(Exception):
    """Not JSON, or not what Envoy takes for it."""


def parsed(body):
    """The JSON. Envoy refuses integers that fit 64 bits without a sign but not with one, numbers beyond a double, and
    surrogates that stand alone."""

    def integer(text):
        if len(text) > 400 or (INT64 < int(text) <= UINT64):
            raise UnreadableError
        return real(text) if abs(int(text)) > INT64 else int(text)

    def real(text):
        if math.isinf(float(text)):
            raise UnreadableError
        return float(text)

    def constant(text):
        raise UnreadableError

    if not body:
        return None
    try:
        text = body.decode("utf-8").removeprefix("\ufeff")
        value = json.loads(text, parse_int=integer, parse_float=real, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise UnreadableError from error
    return value


def expected(headers, body):
    """Service or status."""
    model, class_name = headers.get("x-servingplan-model"), headers.get("x-servingplan-class")
    problem, max_tokens = None, None
    try:
        content = parsed(body)
        if not isinstance(content, dict):
            content = {}
        found = content.get("model")
        if isinstance(found, dict | list):
            found = None
        if isinstance(found, str) and len(found.encode()) > 8192:
            found = None
        if model is None:
            model, problem = found, "no model" if found is None else None
        for key in ("max_completion_tokens", "max_tokens"):
            if not isinstance(content.get(key), dict | list | None):
                max_tokens = content[key]
                break
    except UnreadableError:
        problem = "not JSON"
    if model not in MODELS:
        return 400 if problem and "x-servingplan-model" not in headers else 404
    default, classes = MODELS[model]
    if class_name in classes:
        return service(model, class_name)
    if isinstance(max_tokens, bool | str) or max_tokens is None:
        max_tokens = math.inf
    for name, match in classes.items():
        if (
            len(body) / BYTES_PER_TOKEN >= match.get("inputTokensAtLeast", 0)
            and max_tokens <= match.get("maxTokensAtMost", math.inf)
            and match.get("header") in (None, class_name)
        ):
            return service(model, name)
    return service(model, default)


def test_the_classifier_itself():
    llama, *_ = MODELS
    assert expected({}, b'{"model": "qwen"}') == "s1-short"
    assert expected({}, b'{"model": "qwen", "p": "%s"}' % (b"x" * 300)) == "s1-long"
    assert expected({"x-servingplan-model": llama}, b'{"max_tokens": 64}') == "s0-short-out"
    assert expected({"x-servingplan-class": "gold-customers"}, json.dumps({"model": llama}).encode()) == "s0-gold"
    assert expected({}, b'{"model": "gpt"}') == 404
    assert [expected({}, body) for body in (b"", b"{}", b"[", b'{"model": NaN}')] == [400] * 4


# --- what is asked --------------------------------------------------------------------------------------------------

LENGTHS = (0, 1, 15, 16, 17, 63, 64, 65, 256, 257, 4096, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30)
ODD = (None, True, False, "64", "", [], {}, [16], {"a": 1}, 0.5, 16.5, 63.999, 64.001, 1e3, "meta/llama-3.1-70b", 7)
WORDS = ("hello ", "naïve ", "日本語", "\U0001f600", '"', "\\", "\n", "\x7f", "{", "model", "}")


def some_model(random):
    return random.choice([*MODELS, *MODELS, "gpt", "QWEN", "qwen ", "", random.choice(ODD), "a" * 9000])


def some_body(random):
    fields = []
    if random.random() < 0.95:
        fields.append(("model", some_model(random)))
    for key in ("max_tokens", "max_completion_tokens"):
        if random.random() < 0.4:
            fields.append((key, random.choice(LENGTHS if random.random() < 0.8 else ODD)))
    if random.random() < 0.8:
        text = "".join(random.choice(WORDS) for _ in range(int(random.expovariate(1 / 40))))
        fields.append(("messages", [{"role": "user", "content": text}]))
    if random.random() < 0.1:
        fields.append((random.choice(["model", "max_tokens", "stream"]), random.choice(ODD)))  # twice, perhaps
    if random.random() < 0.1:
        fields.append(("nested", {"model": "gpt", "max_tokens": 1}))
    random.shuffle(fields)
    plain = random.random() < 0.5
    parts = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=plain)}" for key, value in fields)
    return ("{" + random.choice([", ", ",", " ,\n"]).join(parts) + "}").encode()


def broken(random, body):
    """A few bytes are other ones."""
    content = bytearray(body)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(content) + 1)
        match random.randrange(4):
            case 0:
                del content[at : at + random.randint(1, 4)]
            case 1:
                content[at:at] = random.randbytes(random.randint(1, 3))
            case 2:
                content[at:at] = random.choice(
                    [b"{", b"}", b"[", b'"', b",", b"\\", b"NaN", b"1e999", b"\\ud800", b"\0"]
                )
            case _:
                content[at : at + 1] = bytes([random.randrange(256)])
    return bytes(content)


def some_request(random):
    kind = random.random()
    if kind < 0.65:
        body = some_body(random)
    elif kind < 0.9:
        body = broken(random, some_body(random))
    elif kind < 0.95:
        body = random.randbytes(int(random.expovariate(1 / 100)))
    else:
        body = random.choice(
            [b"", b"null", b"[]", b'"qwen"', b"[" * 200_000, b'{"a":' * 100_000, b"\xef\xbb\xbf{}", b"{}{}"]
        )
    headers = {}
    if random.random() < 0.3:
        headers["x-servingplan-model"] = random.choice([*MODELS, *MODELS, "gpt", "Qwen", "\xe4\xff", "a" * 3000])
    if random.random() < 0.3:
        classes = [name for _, items in MODELS.values() for name in items]
        headers["x-servingplan-class"] = random.choice([*classes, "gold-customers", "tenant-7", "odd", "\xfc"])
    if random.random() < 0.2:
        headers["x-session-id"] = random.choice(["s-1", "s-2", "\xe4", "x" * 2000])
    return headers, body, random.random() < 0.2


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with Replicas() as replicas:
        ports = {item["service"]: replicas.start(item["service"]).port for item in document()["services"]}
        with Gateway(tmp_path_factory.mktemp("envoy"), document(), ports) as running:
            yield running


def test_ten_thousand_odd_requests_all_go_where_they_belong(gateway):
    chance = random.Random(5)
    requests = [some_request(chance) for _ in range(NUMBER)]
    sent = [request(body, headers.items(), chunked=chunked) for headers, body, chunked in requests]
    answers = gateway.ask_all(sent)
    assert len(answers) == NUMBER
    wrong = []
    went = Counter()
    for (headers, body, chunked), answer in zip(requests, answers, strict=True):
        if answer.status != 200:
            assert answer.error["message"]
        got = answer.text if answer.status == 200 else answer.status
        want = expected(headers, body)
        went[got] += 1
        if got != want:
            wrong.append((got, want, headers, body[:300], len(body), chunked))
    assert not wrong, (len(wrong), wrong[:10])
    assert gateway.process.poll() is None
    # Every class and every refusal was met often enough to mean something.
    assert set(went) == {item["service"] for item in document()["services"]} | {400, 404}
    assert min(went.values()) >= 30, went
