"""What is read of Kueue's queues."""

import pytest

from servingplan.errors import NotFound
from servingplan.kube import Resource
from servingplan.model.world import FlavorQuota
from servingplan.observe.queues import (
    discovered,
    quota_of,
    seen_cluster_queue,
    seen_cohort,
    seen_flavor,
    seen_local_queue,
)


def cluster_queue(*, name="all", cohort=None, borrowing=None, nominal="8", reserved="3", stop="None", reclaim=None):
    resource = {"name": "nvidia.com/gpu", "nominalQuota": nominal}
    if borrowing is not None:
        resource["borrowingLimit"] = borrowing
    spec = {
        "resourceGroups": [
            {"coveredResources": ["nvidia.com/gpu"], "flavors": [{"name": "l40s", "resources": [resource]}]}
        ]
    }
    spec["stopPolicy"] = stop
    if cohort is not None:
        spec["cohortName"] = cohort
    if reclaim is not None:
        spec["preemption"] = {"reclaimWithinCohort": reclaim}
    status = {"flavorsReservation": [{"name": "l40s", "resources": [{"name": "nvidia.com/gpu", "total": reserved}]}]}
    return seen_cluster_queue({"metadata": {"name": name}, "spec": spec, "status": status})


def local_queue(**more):
    return seen_local_queue(
        {"metadata": {"namespace": "llm", "name": "team-a"}, "spec": {"clusterQueue": "all", **more}}
    )


LOCAL = seen_local_queue({"metadata": {"namespace": "llm", "name": "team-a"}, "spec": {"clusterQueue": "all"}})
FLAVOR = seen_flavor({"metadata": {"name": "l40s"}, "spec": {"nodeLabels": {"pool": "l40s"}}})


def test_a_queue_has_the_quota_of_its_cluster_queue():
    assert quota_of([FLAVOR, cluster_queue(), LOCAL], "llm", "team-a") == (
        FlavorQuota(flavor="l40s", node_labels={"pool": "l40s"}, resource="nvidia.com/gpu", most=8, reserved=3),
    )


@pytest.mark.parametrize(
    ("more", "most"),
    [
        ({}, 8),
        ({"borrowing": "4"}, 8),
        ({"cohort": "c", "borrowing": "1"}, 9),
        ({"cohort": "c", "borrowing": "4"}, 11),
        ({"cohort": "c"}, 11),
        ({"cohort": "d"}, 8),
        ({"nominal": "2k"}, 2000),
        ({"nominal": "1"}, 3),
        ({"nominal": "what"}, 3),
    ],
)
def test_it_borrows_what_its_cohort_leaves_and_no_more_than_its_limit(more, most):
    other = cluster_queue(name="other", cohort="c", nominal="4", reserved="1")
    assert [item.most for item in quota_of([FLAVOR, cluster_queue(**more), other, LOCAL], "llm", "team-a")] == [most]


@pytest.mark.parametrize(("reclaim", "most"), [(None, 4), ("Never", 4), ("LowerPriority", 4), ("Any", 8)])
def test_what_others_borrowed_is_its_own_only_if_it_takes_that_back(reclaim, most):
    mine = cluster_queue(cohort="c", reclaim=reclaim)
    other = cluster_queue(name="other", cohort="c", nominal="0", reserved="4")
    assert [item.most for item in quota_of([FLAVOR, mine, other, LOCAL], "llm", "team-a")] == [most]


def test_what_it_holds_stays_its_own_where_others_hold_too_much():
    mine = cluster_queue(cohort="c", nominal="4", reserved="4")
    other = cluster_queue(name="other", cohort="c", nominal="4", reserved="8")
    assert [item.most for item in quota_of([FLAVOR, mine, other, LOCAL], "llm", "team-a")] == [4]


def test_in_a_cohort_that_is_below_itself_nobody_gets_more():
    circle = seen_cohort({"metadata": {"name": "c"}, "spec": {"parentName": "c"}})
    mine = cluster_queue(cohort="c", reclaim="Any")
    assert [item.most for item in quota_of([FLAVOR, mine, circle, LOCAL], "llm", "team-a")] == [3]


@pytest.mark.parametrize(("active", "most"), [("True", 8), ("Unknown", 8), ("False", 3)])
def test_a_queue_that_kueue_calls_inactive_has_no_more_than_it_holds(active, most):
    conditions = [{"type": "Active", "status": active}]
    local = seen_local_queue(
        {
            "metadata": {"namespace": "llm", "name": "team-a"},
            "spec": {"clusterQueue": "all"},
            "status": {"conditions": conditions},
        }
    )
    assert [item.most for item in quota_of([FLAVOR, cluster_queue(), local], "llm", "team-a")] == [most]


def test_quota_of_the_cohorts_above_it_counts():
    resource = {"name": "nvidia.com/gpu", "nominalQuota": "5", "borrowingLimit": "1"}
    groups = [{"coveredResources": ["nvidia.com/gpu"], "flavors": [{"name": "l40s", "resources": [resource]}]}]
    team = seen_cohort({"metadata": {"name": "team"}, "spec": {"parentName": "firm", "resourceGroups": groups}})
    lender = cluster_queue(name="other", cohort="firm", nominal="4", reserved="0")
    seen = [FLAVOR, cluster_queue(cohort="team"), lender, team, LOCAL]
    assert [item.most for item in quota_of(seen, "llm", "team-a")] == [8 + 5 + 1]


@pytest.mark.parametrize("policy", ["Hold", "HoldAndDrain"])
def test_a_queue_that_is_stopped_has_no_more_than_it_holds(policy):
    stopped = cluster_queue(stop=policy), local_queue(), 3
    held_back = cluster_queue(cohort="c"), local_queue(stopPolicy=policy), 3
    open_again = cluster_queue(), local_queue(stopPolicy="None"), 8
    for behind, local, most in (stopped, held_back, open_again):
        assert [item.most for item in quota_of([FLAVOR, behind, local], "llm", "team-a")] == [most]


def test_nothing_is_known_of_a_queue_that_is_not_there():
    seen = [FLAVOR, cluster_queue(), LOCAL]
    assert quota_of(seen, "llm", "other") is None
    assert quota_of(seen, "elsewhere", "team-a") is None
    assert quota_of([FLAVOR, LOCAL], "llm", "team-a") is None
    assert quota_of([], "llm", "team-a") is None


class Served:
    """An API server that serves one version of Kueue."""

    def __init__(self, version):
        self.version = version

    def discover(self, api_version, kind):
        if api_version != self.version:
            raise NotFound(404, "NotFound", f"no {kind}")
        return Resource(api_version, kind.lower() + "s", kind, False)


@pytest.mark.parametrize("version", ["kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1"])
def test_the_newest_version_that_is_served_is_read(version):
    assert discovered("ClusterQueue")(Served(version)).api_version == version


def test_without_kueue_nothing_is_found():
    with pytest.raises(NotFound):
        discovered("ClusterQueue")(Served("v1"))
