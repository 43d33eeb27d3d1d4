"""Two nodes of eight GPUs, one replica of eight and two of four: they fit in one way only, after edits and losses too."""

from collections import defaultdict

import pytest

from e2e.support import plans
from e2e.support.scene import FLEET_LABEL
from e2e.support.waiting import wait_for
from localcluster import nodes
from localcluster.nodes import H100
from servingplan.kube import NODES

pytestmark = pytest.mark.usefixtures("kwok", "operator")

EIGHT, FOUR = "needs-eight", "needs-four"


def models(*, fours: int) -> list[plans.Json]:
    """300 and 130 billion weights of two bytes: they fit on eight and on four GPUs of 80 GB, on no fewer.

    The demand for the second is so small that one copy does, or so large that every copy that fits is taken.
    """
    return [
        plans.model_at(
            EIGHT, requests_per_second=0.1, priority=100, card=plans.card(300, most_gpus=8), ready_seconds=1
        ),
        plans.model_at(
            FOUR,
            requests_per_second={1: 0.1, 2: 1000}[fours],
            priority=10,
            card=plans.card(130, most_gpus=4),
            ready_seconds=1,
        ),
    ]


def test_eight_and_twice_four_fit_on_two_nodes_and_nobody_is_left_pending(scene, witness):
    pool = scene.fixed(H100, 2, price=50)

    # The small one comes first; the second may not sit on the other node, or the large one would never fit.
    # What is better is done at once: how long a plan is kept is another story.
    change = {"drainSeconds": 1, "minLifetime": "1s", "minGain": "0"}
    scene.apply(plans.plan(scene.namespace, models(fours=1)[1:], [pool], budget=200, change=change))
    scene.wait_ready()
    _wait_contents(scene, [[FOUR]])

    scene.edit("chat", {"models": models(fours=2)})
    scene.wait_ready(seconds=20)
    _wait_contents(scene, [[EIGHT], [FOUR, FOUR]])

    # The small ones go, and come back.
    scene.edit("chat", {"models": models(fours=2)[:1]})
    _wait_contents(scene, [[EIGHT]])
    scene.wait_ready()
    scene.edit("chat", {"models": models(fours=2)})
    scene.wait_ready()
    _wait_contents(scene, [[EIGHT], [FOUR, FOUR]])

    # The large one's node dies: it takes the other node, the small ones make way.
    node = next(name for name, held in _by_node(scene).items() if held == [EIGHT])
    scene.lose_node(node)
    _wait_contents(scene, [[EIGHT]])

    # The machine comes back: the small ones too.
    scene.api.create(NODES, nodes.node(H100, node, labels={FLEET_LABEL: pool["nodeSelector"][FLEET_LABEL]}))
    _wait_contents(scene, [[EIGHT], [FOUR, FOUR]])
    scene.wait_ready()


def _by_node(scene) -> dict[str, list[str]]:
    held = defaultdict(list)
    for pod in scene.ready_pods():
        if scene.node_ready(pod["spec"]["nodeName"]):
            held[pod["spec"]["nodeName"]].append(pod["metadata"]["labels"]["servingplan.dev/model"])
    return {name: sorted(content) for name, content in held.items()}


def _contents(scene) -> list[list[str]]:
    return sorted(_by_node(scene).values())


def _wait_contents(scene, wanted: list[list[str]]) -> None:
    """Wait until the nodes hold these; what leaves may do so after the plan is Ready."""
    what = f"nodes with {wanted}"
    wait_for(what, lambda: _contents(scene) == wanted, seconds=20, shown=lambda: (_contents(scene), scene.conditions()))
