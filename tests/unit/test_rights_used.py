"""The list of rights that the operator uses: the audit log is read right, and a wrong list is noticed."""

import json

import pytest

from e2e.support import rights_used
from e2e.support.rights_used import Account, Right
from localcluster.audit import AuditLog

USER, STORY = "system:serviceaccount:home:servingplan", "e2e/test_x.py::test_x"
PATCHED = Right("plans", "apps", "deployments", "patch")
CREATED = Right("plans", "apps", "deployments", "create")
LISTED = Right("cluster", "", "nodes", "list")


def event(verb, resource, *, group="", namespace=None, code=200, decision="allow", user=USER, subresource=None):
    about = {"resource": resource, "apiGroup": group, "namespace": namespace, "subresource": subresource}
    return {
        "verb": verb,
        "user": {"username": user},
        "objectRef": {key: value for key, value in about.items() if value},
        "responseStatus": {"code": code},
        "annotations": {"authorization.k8s.io/decision": decision},
    }


@pytest.fixture
def log(tmp_path):
    """Writes events, and has the log that they are in."""
    path = tmp_path / "audit.log"

    def write(*events):
        with path.open("a") as file:
            file.writelines(f"{json.dumps(item)}\n" for item in events)

    write.path, write.log = path, AuditLog(path)
    return write


@pytest.fixture
def account(log, tmp_path, monkeypatch):
    """The operator's during a story, and a list in which this story uses ``PATCHED``."""
    monkeypatch.delenv("UPDATE_GOLDEN", raising=False)
    monkeypatch.setattr(rights_used, "wait_for", at_once)
    monkeypatch.setattr(rights_used, "FILE", tmp_path / "rights_used.txt")
    rights_used.write({PATCHED: STORY, LISTED: "e2e/test_y.py::test_y"})
    return Account(log.log, USER, home="home", story=STORY)


def at_once(what, look, *, shown, **_):
    assert look(), f"{what}: {shown()}"


def test_the_log_is_read_once_and_only_whole_lines(log):
    assert log.log.requests() == set()
    log(event("list", "nodes"), {"verb": "get", "user": {"username": USER}, "requestURI": "/apis"})
    with log.path.open("a") as file:
        file.write(json.dumps(event("get", "pods", namespace="llm"))[:40])
    assert [(item.verb, item.resource, item.namespace, item.allowed) for item in log.log.requests()] == [
        ("list", "nodes", "", True)
    ]
    assert log.log.requests() == set()
    with log.path.open("a") as file:
        file.write(f"{json.dumps(event('get', 'pods', namespace='llm'))[40:]}\n")
    assert [(item.verb, item.namespace) for item in log.log.requests()] == [("get", "llm")]


def test_an_apply_that_makes_its_object_has_used_create_too(log, account):
    log(event("patch", "deployments", group="apps", namespace="llm", code=201))
    assert account.used() == {PATCHED, CREATED}


def test_where_a_right_is_used_is_told_by_namespace(log, account):
    log(
        event("list", "configmaps", namespace="home"),
        event("list", "events", namespace="default"),
        event("patch", "llmservingplans", group="servingplan.dev", namespace="llm", subresource="status"),
        event("get", "nodes", user="system:serviceaccount:home:gateway"),
    )
    assert account.used() == {
        Right("release", "", "configmaps", "list"),
        Right("default", "", "events", "list"),
        Right("plans", "servingplan.dev", "llmservingplans/status", "patch"),
    }


def test_a_story_that_keeps_to_the_list_passes(log, account):
    log(event("patch", "deployments", group="apps", namespace="llm"), event("list", "nodes"))
    account.check()


def test_what_earlier_stories_did_is_not_this_one_s(log, account, tmp_path):
    log(event("patch", "deployments", group="apps", namespace="llm"))
    later = Account(log.log, USER, home="home", story=STORY)
    with pytest.raises(AssertionError, match=r"patch deployments\.apps in plans it did not"):
        later.check()


def test_a_right_that_is_not_in_the_list_fails_the_story_and_can_be_added(log, account, monkeypatch):
    log(event("patch", "deployments", group="apps", namespace="llm"), event("delete", "pods", namespace="llm"))
    with pytest.raises(AssertionError, match="delete pods in plans"):
        account.check()
    monkeypatch.setenv("UPDATE_GOLDEN", "1")
    account.check()
    assert rights_used.read()[Right("plans", "", "pods", "delete")] == STORY
    assert rights_used.read()[LISTED] == "e2e/test_y.py::test_y"
    monkeypatch.delenv("UPDATE_GOLDEN")
    account.check()


def test_a_right_that_the_list_says_it_uses_and_that_it_does_not_fails_the_story(log, account):
    log(event("list", "nodes"))
    with pytest.raises(AssertionError, match=r"patch deployments\.apps in plans it did not"):
        account.check()


def test_a_refused_request_fails_the_story_unless_it_takes_rights_away(log, account):
    log(
        event("patch", "deployments", group="apps", namespace="llm"),
        event("list", "secrets", namespace="llm", code=403, decision="forbid"),
    )
    with pytest.raises(AssertionError, match="secrets"):
        account.check()
    account.check(may_be_refused=True)
