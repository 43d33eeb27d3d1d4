"""NGINX's and HAProxy's files are those that were read and found good; what is computed in them holds for any number.

``UPDATE_GOLDEN=1`` writes them anew. ``tests/contract/test_other_gateways.py`` gives them to the real programs.
"""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from servingplan.cli import app
from servingplan.routing.haproxy import _in_parts
from servingplan.routing.nginx import number_at_least

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "routing"
ROUTING = GOLDEN / "routing.json"
RENDERINGS = {"nginx": "nginx-split.conf", "haproxy": "haproxy.cfg"}
quick = settings(max_examples=200)


@pytest.mark.parametrize("gateway", RENDERINGS)
def test_the_files_are_the_golden_ones(gateway):
    done = CliRunner().invoke(app, ["gateway-files", str(ROUTING), "--gateway", gateway])
    assert done.exit_code == 0, done.output
    path = GOLDEN / RENDERINGS[gateway]
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(done.output)
    assert done.output == path.read_text(), "UPDATE_GOLDEN=1 writes the files anew"


@pytest.mark.parametrize("text", ["", "[]", '{"plan": "a/b"}', "{"])
def test_what_is_no_routing_document_is_refused(tmp_path, text):
    path = tmp_path / "routing.json"
    path.write_text(text)
    done = CliRunner().invoke(app, ["gateway-files", str(path), "--gateway", "nginx"])
    assert done.exit_code == 2
    assert "error: " in done.output


@quick
@given(least=st.integers(0, 10**9), other=st.integers(0, 10**10))
def test_a_pattern_of_numbers_compares_as_numbers_do(least, other):
    for number in (other, least, max(0, least - 1), least + 1):
        assert bool(re.fullmatch(number_at_least(least), str(number))) is (number >= least)


@quick
@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 10_000), min_size=1, max_size=20))
def test_parts_are_whole_and_within_one_of_their_share(weights):
    parts = _in_parts(weights)
    assert sum(parts.values()) == 256
    whole = sum(weights.values())
    assert all(abs(parts[name] - 256 * weight / whole) < 1 for name, weight in weights.items())
