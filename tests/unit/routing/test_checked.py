"""No string of a plan or of a routing document can end a line of a gateway's configuration."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from servingplan.api.models_v1alpha1 import Match, Model, RequestClass
from servingplan.api.v1alpha1 import Gateway, ParentRef
from servingplan.cli import app
from servingplan.errors import InputError
from servingplan.routing.checked import checked
from servingplan.routing.envoy import envoy_files
from servingplan.routing.haproxy import haproxy_file
from servingplan.routing.nginx import nginx_file

ROUTING = json.loads((Path(__file__).resolve().parents[2] / "golden" / "routing" / "routing.json").read_text())
RENDERERS = {"envoy": envoy_files, "nginx": nginx_file, "haproxy": haproxy_file}
MODEL = "meta-llama/Llama-3.1-70B"
INJECTED = "x\n    http-request set-path /admin"


def with_value(path, value):
    made = copy.deepcopy(ROUTING)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


def renamed(text):
    made = copy.deepcopy(ROUTING)
    made["models"] = {text: made["models"][MODEL]}
    return made


ATTACKS = {
    "the value of a header": with_value(("models", MODEL, "classes", 2, "match", "header"), INJECTED),
    "the name of a class": with_value(("models", MODEL, "classes", 0, "name"), INJECTED),
    "the default class": with_value(("models", MODEL, "defaultClass"), INJECTED),
    "the name of a model": renamed(INJECTED),
    "the plan": with_value(("plan",), "llm/chat\nglobal"),
    "a Service": with_value(("services", 0, "service"), "a b:1 backup"),
    "a target": with_value(("models", MODEL, "classes", 0, "targets", 0, "service"), "a;}"),
    "a port": with_value(("services", 0, "port"), "80 check\n"),
    "a port in words": with_value(("models", MODEL, "classes", 0, "targets", 0, "port"), "80 check"),
    "a weight": with_value(("models", MODEL, "classes", 0, "targets", 0, "weight"), "1"),
    "a length": with_value(("models", MODEL, "classes", 0, "match", "inputTokensAtLeast"), "1 }"),
    "a limit": with_value(("models", MODEL, "classes", 1, "match", "maxTokensAtMost"), "1 } || { always_true"),
    "the revision": with_value(("revision",), "7 if TRUE"),
    "a rate": with_value(("models", MODEL, "classes", 0, "admitRequestsPerSecond"), "1"),
    "bytes of a token": with_value(("bytesPerToken",), "4"),
    "a separator of lines": with_value(("models", MODEL, "classes", 2, "match", "header"), "a\u2028b"),
    "no list": with_value(("services",), 7),
    "no document": {**ROUTING, "models": {"m": None}},
}


@pytest.mark.parametrize("gateway", RENDERERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_document_that_would_change_the_configuration_is_refused(attack, gateway):
    with pytest.raises(InputError):
        RENDERERS[gateway](ATTACKS[attack], namespace="llm")


@pytest.mark.parametrize("gateway", RENDERERS)
@pytest.mark.parametrize("namespace", ["llm\nx", "a.b", "", "LLM"])
def test_so_is_a_namespace_that_is_none(gateway, namespace):
    with pytest.raises(InputError, match="namespace"):
        RENDERERS[gateway](ROUTING, namespace=namespace)


def test_the_command_says_it_in_a_line(tmp_path):
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(ATTACKS["the value of a header"]))
    done = CliRunner().invoke(app, ["gateway-files", str(path), "--gateway", "haproxy"])
    assert isinstance(done.exception, InputError)
    assert "control character U+000A; remove it" in str(done.exception)
    assert done.output == ""


@given(st.text(alphabet=st.characters(max_codepoint=0x2030), min_size=1, max_size=20))
def test_a_value_that_is_rendered_leaves_the_file_its_lines(text):
    made = with_value(("models", MODEL, "classes", 2, "match", "header"), text)
    try:
        checked(made, namespace="llm")
    except InputError:
        return
    for render in (haproxy_file, nginx_file):
        changed = [
            (one, other)
            for one, other in zip(
                render(ROUTING, namespace="llm").splitlines(), render(made, namespace="llm").splitlines(), strict=True
            )
            if one != other
        ]
        assert len(changed) <= 1


@pytest.mark.parametrize("end", ["\n", "\r", "\t", "\x00", "\x7f", "\x85", "\u2028"])
def test_the_schema_lets_none_in_either(end):
    makers = (
        lambda text: Match(header=text),
        lambda text: Model(name=text),
        lambda text: RequestClass(name=text, input_tokens=1, output_tokens=1, requests_per_second=1),
        lambda text: Gateway(config_map=text),
        lambda text: Gateway(ack_url=f"http://{text}"),
        lambda text: ParentRef(name="a", section_name=text),
    )
    for make in makers:
        make("a")
        for text in (f"a{end}", f"a{end}b", f"{end}a"):
            with pytest.raises(ValidationError):
                make(text)
