"""Every reason that the code gives is explained, once, and the page is that of the table."""

import ast
import os
from pathlib import Path

import pytest

from servingplan.api.reasons import CONDITIONS, REASONS, needs_a_person, page
from servingplan.status.conditions import COUNT_IN_READY

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCE = REPOSITORY / "operator" / "servingplan"
PAGE = REPOSITORY / "docs" / "conditions.md"
POSITION = {"find": 1, "Row": 2, "Problem": 0, "Complaint": 0, "NotAsked": 0, "_with_ready": 1, "_reason": None}
"""Where calls of these names carry a reason."""
KEYWORDS = {"reason", "problem_reason"}


def reasons_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = POSITION.get(name)
            if at is not None and len(node.args) > at:
                yield from strings(node.args[at])
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS:
                    yield from strings(keyword.value)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(getattr(target, "id", "") in ("reason", "_TROUBLES", "SHARED_OBJECT") for target in targets):
                value = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
                for item in value:
                    yield from strings(item)


def strings(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)


def given():
    folders = ["decide", "status", "observe", "planning", "demand", "rollout"]
    files = [path for folder in folders for path in (SOURCE / folder).glob("*.py")]
    return {reason for path in files for reason in reasons_in(ast.parse(path.read_text()))}


def test_every_reason_that_is_given_is_explained():
    found = given()
    assert len(found) > 40, "the search finds what it is to find"
    assert sorted(found - REASONS.keys()) == []


def test_every_condition_is_explained():
    assert set(COUNT_IN_READY) <= CONDITIONS.keys()


@pytest.mark.parametrize("name", sorted(REASONS))
def test_a_meaning_is_a_sentence(name):
    item = REASONS[name]
    assert item.meaning.endswith(".")
    assert not item.advice or item.advice.endswith(".")


def test_the_page_is_that_of_the_table():
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "UPDATE_GOLDEN=1 writes it"


def test_what_passes_by_itself_needs_nobody():
    assert not any(map(needs_a_person, ("Scaling", "RollingOut", "Transitional", "NotPlanned", "ReadFailed", "Ready")))
    assert needs_a_person("NotAllowed")
