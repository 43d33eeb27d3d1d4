"""Every reason that the code gives is explained, once, and the pages that say more are there."""

import ast
from pathlib import Path

import pytest

from servingplan.api.reasons import (
    _MORE,
    CONDITIONS,
    LONGEST_MESSAGE,
    REASONS,
    more_about,
    needs_a_person,
    page_of,
    with_page,
)
from servingplan.status.conditions import COUNT_IN_READY

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCE = REPOSITORY / "operator" / "servingplan"
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


def test_every_reason_has_a_page_and_none_that_is_gone_has_one():
    assert {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs/reasons").iterdir()} == {
        page_of(name) for name in REASONS
    }
    for page, names in _MORE.items():
        assert (REPOSITORY / page).is_file(), page
        assert set(names) <= REASONS.keys(), page
    assert more_about("RecordUnreadable") == ["docs/upgrade.md"]
    assert page_of("Infeasible", "https://docs.example/plans/") == "https://docs.example/plans/reasons/Infeasible/"


SITE = "https://docs.example/plans/"
FAILS = {"type": "NodePoolsReady", "status": "False", "reason": "NotAllowed", "message": "ask its owner"}
HOLDS = {**FAILS, "status": "True"}
SAYS_ALL = {**FAILS, "reason": "PlanSolved"}
DEGRADED = {"type": "Degraded", "status": "True", "reason": "Spilled", "message": "late"}


def test_a_message_names_the_page_of_its_reason_once():
    told = with_page(FAILS, SITE)
    assert told == {**FAILS, "message": "ask its owner (https://docs.example/plans/reasons/NotAllowed/)"}
    assert with_page(told, SITE) == told
    assert with_page(FAILS, "") == FAILS
    assert "reasons/Spilled/" in with_page(DEGRADED, SITE)["message"]
    for condition in (HOLDS, SAYS_ALL, {**FAILS, "reason": "OfALaterVersion"}):
        assert with_page(condition, SITE) == condition
    long = with_page({**FAILS, "message": "x" * 5000}, SITE)["message"]
    assert long.endswith("xx (https://docs.example/plans/reasons/NotAllowed/)")
    assert len(long) == LONGEST_MESSAGE


def test_what_passes_by_itself_needs_nobody():
    assert not any(map(needs_a_person, ("Scaling", "RollingOut", "Transitional", "NotPlanned", "ReadFailed", "Ready")))
    assert needs_a_person("NotAllowed")
