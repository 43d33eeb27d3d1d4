"""Fixtures of the stories on a real node: they take the place of the simulated cluster's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.real.ground import GPUS, POOL_LABELS, Ground
from e2e.support.cluster import Cluster, cluster_of
from e2e.support.feed import Feed
from e2e.support.scene import Scene
from localcluster import real_node
from localcluster.control_plane import say_to_stderr
from localcluster.debian import NotToBeHadError
from localcluster.real_node import RealNode
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PLANS, PODS

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every story here needs a real node."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real_node)


@pytest.fixture(scope="package")
def node() -> Iterator[RealNode]:
    """The node of all stories here."""
    if os.environ.get("E2E_EXISTING") == "1":
        pytest.skip("these stories run on a node of their own, never on the cluster of KUBECONFIG")
    if why := real_node.missing():
        pytest.skip(f"no real node: {why}")
    try:
        with RealNode(labels=POOL_LABELS, gpus=GPUS, say=say_to_stderr) as running:
            yield running
    except NotToBeHadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="package")
def cluster(node: RealNode) -> Iterator[Cluster]:
    """Its cluster."""
    with cluster_of(node.plane) as made:
        yield made


@pytest.fixture(scope="package")
def feed(cluster: Cluster) -> Iterator[Feed]:
    """Everything that happens in it."""
    with Feed(cluster.client, [NODES, PODS, DEPLOYMENTS, ENDPOINT_SLICES, CONFIG_MAPS, PLANS]) as running:
        yield running


@pytest.fixture
def ground(scene: Scene, node: RealNode) -> Ground:
    """The scene's namespace, for emulated engines and a gateway."""
    return Ground(scene, node)
