"""Fixtures of the stories.

Without more, the session starts a control plane of its own. With ``E2E_EXISTING=1`` it takes the cluster of
``KUBECONFIG``, if that looks like a test cluster; what the cluster lacks (Karpenter with its KWOK provider, KWOK) makes
the stories that need it skip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from e2e.support.cluster import NODE_POOLS, Cluster, existing_cluster, own_cluster
from e2e.support.feed import Feed
from e2e.support.operator import Operator
from e2e.support.rights_used import story_of
from e2e.support.scene import Scene
from e2e.support.watcher import Witness
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PLANS, PODS

_HERE = Path(__file__).parent
_SCENE: pytest.StashKey[Scene] = pytest.StashKey()
_PASSED: pytest.StashKey[bool] = pytest.StashKey()
STORY_SECONDS = 5400
"""A story that takes longer hangs; each wait within it has a limit of its own that is reached before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every story needs a cluster, and may take its time."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(STORY_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A story that failed shows what the operator logged."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    if call.when == "call" and report.failed and (scene := item.stash.get(_SCENE, None)) is not None:
        report.sections.append(("operator", scene.words()[-20_000:]))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of all stories."""
    if os.environ.get("E2E_EXISTING") != "1":
        with own_cluster() as made:
            yield made
        return
    try:
        with existing_cluster(tmp_path_factory.mktemp("cluster")) as found:
            yield found
    except ValueError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def feed(cluster: Cluster) -> Iterator[Feed]:
    """Everything that happens in it."""
    node_pools = [NODE_POOLS] if cluster.has_karpenter else []
    with Feed(cluster.client, [NODES, PODS, DEPLOYMENTS, ENDPOINT_SLICES, CONFIG_MAPS, PLANS, *node_pools]) as running:
        yield running


@pytest.fixture
def scene(cluster: Cluster, feed: Feed, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A namespace of the story's own."""
    made = Scene(cluster, feed, tmp_path)
    request.node.stash[_SCENE] = made
    account = made.account(story_of(request.node))
    yield made
    forced = made.close()
    assert not forced, f"the operator did not let go of {forced}; its last words:\n{made.words()[-3000:]}"
    passed = request.node.stash.get(_PASSED, False)
    if account is not None and passed and not made.has_earlier_releases:
        account.check(may_be_refused=made.may_be_refused)


@pytest.fixture
def operator(scene: Scene) -> Iterator[Operator]:
    """The operator, for the plans of the scene's namespace."""
    with scene.operator() as running:
        yield running


@pytest.fixture
def witness(scene: Scene) -> Iterator[Witness]:
    """Watches the scene's namespace; what must never happen fails the story at its end."""
    with scene.witness() as watching:
        yield watching
        watching.settle()
        assert not watching.violations, watching.report()


@pytest.fixture
def karpenter(cluster: Cluster) -> None:
    """The story rents nodes."""
    if not cluster.has_karpenter:
        pytest.skip("this cluster has no Karpenter with the KWOK provider (API groups karpenter.sh, karpenter.kwok.sh)")


@pytest.fixture
def sell(cluster: Cluster, karpenter: None) -> Iterator[Callable[..., None]]:
    """The story decides what can be had (``ControlPlane.sell``); in the end all can."""
    if cluster.sell is None:
        pytest.skip("the market of this cluster's Karpenter cannot be told what is sold out")
    yield cluster.sell
    cluster.sell()


@pytest.fixture
def kwok(cluster: Cluster) -> None:
    """The story makes nodes."""
    if not cluster.has_kwok:
        pytest.skip("this cluster has no KWOK that plays nodes: a node made for a trial did not become Ready")
