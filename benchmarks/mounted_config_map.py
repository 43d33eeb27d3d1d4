"""How long a change of the routing ConfigMap takes to be in use: brought by the kubelet, and by ``gateway-sync``.

python -m benchmarks.mounted_config_map     some ten minutes; needs what the stories on a real node need

Both gateways of ``examples/gateway`` run as pods of a real node whose kubelet has its default settings. Changes come at
random moments, and the clock runs from the write's answer until the gateway shows the new revision.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from e2e.real.ground import GPUS, POOL_LABELS, Ground, revision
from e2e.support.cluster import cluster_of
from e2e.support.feed import Feed
from e2e.support.scene import Scene
from localcluster import real_node
from localcluster.control_plane import say_to_stderr
from localcluster.real_node import RealNode
from servingplan.kube import CONFIG_MAPS, PODS
from servingplan.routing.envoy import envoy_files

CONFIG_MAP = "chat-routing"
LONGEST_SECONDS = 180
BETWEEN_SECONDS = (1, 60)
Json = dict[str, Any]


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mounted_config_map", description=__doc__)
    parser.add_argument("--changes", type=int, default=8, help="for each of mounted, and mounted with a touched pod")
    changes = parser.parse_args().changes
    if why := real_node.missing():
        sys.exit(f"no real node: {why}")
    with (
        RealNode(labels=POOL_LABELS, gpus=GPUS, say=say_to_stderr) as node,
        cluster_of(node.plane) as cluster,
        Feed(cluster.client, [PODS]) as feed,
        tempfile.TemporaryDirectory() as folder,
    ):
        scene = Scene(cluster, feed, Path(folder))
        ground = Ground(scene, node)
        publish(scene, 1)
        ground.apply_gateway()
        ground.apply_mounted_gateway()
        synced, mounted = ground.address_of("chat-gateway"), ground.address_of("chat-gateway-mounted")
        chance = random.Random(1)
        seconds: dict[str, list[float]] = {"gateway-sync": [], "mounted": [], "mounted, pod annotated": []}
        for number in range(2, 2 * changes + 2):
            time.sleep(chance.uniform(*BETWEEN_SECONDS))
            publish(scene, number)
            began = time.monotonic()
            kind = "mounted, pod annotated" if number % 2 else "mounted"
            seconds["gateway-sync"].append(until_shown(synced, number, began))
            if number % 2:
                ground.touch_mounted_gateway()
            seconds[kind].append(until_shown(mounted, number, began))
            print(f"{kind}: {seconds[kind][-1]:.1f} s; gateway-sync: {seconds['gateway-sync'][-1]:.3f} s", flush=True)
        for kind, measured in seconds.items():
            ordered = sorted(measured)
            print(
                f"{kind}: {len(ordered)} changes, {ordered[0]:.2f} to {ordered[-1]:.2f} s, "
                f"median {ordered[len(ordered) // 2]:.2f} s"
            )


def publish(scene: Scene, number: int) -> None:
    """Write a revision as the operator would; no model has a target."""
    document = {
        "version": 1,
        "plan": f"{scene.namespace}/chat",
        "planHash": "9f2c0a11",
        "revision": number,
        "transitional": False,
        "services": [],
        "models": {
            "m": {
                "defaultClass": "all",
                "classes": [{"name": "all", "match": {}, "admitRequestsPerSecond": None, "targets": []}],
            }
        },
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": scene.namespace},
        "data": {"routing.json": json.dumps(document), **envoy_files(document, namespace=scene.namespace)},
    }
    scene.api.apply(CONFIG_MAPS, manifest, manager="benchmark", force=True)


def until_shown(gateway: str, number: int, began: float) -> float:
    """Seconds from then until the gateway shows a revision."""
    while revision(gateway) != number:
        if time.monotonic() - began > LONGEST_SECONDS:
            raise TimeoutError(f"not within {LONGEST_SECONDS} s")
        time.sleep(0.01)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
