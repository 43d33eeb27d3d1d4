"""Rights that an installation needs only for what it has switched on."""

import pytest

from servingplan.doctor.rights import MARK, needed


@pytest.mark.parametrize(
    ("marks", "groups", "verbs"),
    [(True, {"cluster.x-k8s.io"}, ["get", "patch"]), (False, {"cluster.x-k8s.io"}, []), (True, set(), [])],
)
def test_machines_are_written_only_where_they_are_marked_and_served(marks, groups, verbs):
    rights = needed(
        namespace="llm",
        pools=(),
        groups=groups,
        lease_namespace="",
        catalogue_namespace="",
        marks_machines=marks,
    )
    found = [right for right in rights if right.purpose == MARK]
    assert [right.verb for right in found] == verbs
    assert all(
        (right.group, right.resource, right.namespace) == ("cluster.x-k8s.io", "machines", None) for right in found
    )
