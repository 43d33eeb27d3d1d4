"""The chart grants what the operator uses, and nothing else: ``e2e/support/rights_used.txt`` against the chart's roles.

That the file is true is tested by the stories that it names (``e2e.support.rights_used``).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.support import rights_used
from e2e.support.operator import rights
from e2e.support.rights_used import CLUSTER, PLANS, RELEASE, Right

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
HOME, NAMESPACE = "servingplan-system", "llm"
NOT_USED = {
    Right(
        PLANS, "", "configmaps", "delete"
    ): "setting an owner needs it where OwnerReferencesPermissionEnforcement is on",
}
"""Rights that no story uses, with the reason for each."""


def granted(*, everywhere):
    """What the roles grant that the operator's ServiceAccount is bound to."""
    manifests = rights(HOME, () if everywhere else (NAMESPACE,))
    roles = {(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")): item for item in manifests}
    where = {None: CLUSTER, NAMESPACE: PLANS, HOME: RELEASE}
    found = set()
    for binding in manifests:
        if "roleRef" not in binding:
            continue
        namespace = binding["metadata"].get("namespace")
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace]
        found |= {
            Right(where.get(namespace, namespace), group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
    return found


def covers(right, use):
    """Whether a right is enough for a use; one for the whole cluster is enough everywhere."""
    return right[1:] == use[1:] and right.where in (CLUSTER, use.where)


@pytest.mark.parametrize("everywhere", [False, True])
def test_every_right_that_the_chart_grants_is_used(everywhere):
    used = rights_used.read()
    idle = {right for right in granted(everywhere=everywhere) if not any(covers(right, use) for use in used)}
    excused = {right for right in idle if any(covers(right, item) for item in NOT_USED)}
    assert idle == excused, f"take out of the chart, or have a story use: {rights_used.text(idle - excused)}"
    assert len(excused) == len(NOT_USED), "an exception is used by now, or is not granted any more"


def test_every_right_that_is_used_is_granted():
    chart = granted(everywhere=False) | granted(everywhere=True)
    lacking = [use for use in rights_used.read() if not any(covers(right, use) for right in chart)]
    assert lacking == [], rights_used.text(lacking)


def test_every_story_that_is_named_is_there():
    for story in set(rights_used.read().values()):
        path, _, name = story.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), story
