"""A plan that answers: a model with short and long answers, and a gateway that follows the plan's routing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.support import plans
from e2e.support.emulated_kubelet import TIMES, EmulatedKubelet, LoopbackFolder, envoy_sends_to
from e2e.support.gateway import EnvoyProcess
from e2e.support.plans import Json
from e2e.support.scene import Scene
from localcluster.ports import free_ports
from servingplan.gateway_sync.sync import Sync
from servingplan.routing.envoy import Place


def model(*, short: float, long: float, image: str = "engine:1") -> Json:
    """Short and long answers, told apart by ``max_tokens``; the rates are in the measure of the stories."""
    scale = plans.planned_of_an_a100() / plans.SERVED_BY_AN_A100
    made = plans.model_at(requests_per_second=short * scale, image=image)
    made["classes"] = [
        {**made["classes"][0], "match": {"maxTokensAtMost": 64}},
        {"name": "long", "inputTokens": 60, "outputTokens": 150, "requestsPerSecond": f"{long * scale:.3f}"},
    ]
    made["maxModelLen"] = 2048
    made["engine"]["podTemplate"]["metadata"]["annotations"] = TIMES
    return made


@contextmanager
def gateway(scene: Scene, kubelet: EmulatedKubelet, folder: Path) -> Iterator[EnvoyProcess]:
    """Envoy, not yet started, and what keeps its files by the routing of the plan ``chat``."""
    port, admin_port = free_ports(2)
    kubelet.is_in_use = envoy_sends_to(admin_port)
    files = LoopbackFolder(folder / "routing", kubelet)
    place = Place(folder=str(files.path), port=port, admin_port=admin_port)
    sync = Sync(api=scene.api, namespace=scene.namespace, config_map="chat-routing", place=place, folder=files)
    thread = threading.Thread(target=sync.run, name="gateway-sync", daemon=True)
    thread.start()
    yield EnvoyProcess(place, log=folder / "envoy.log")
    sync.stop()
    thread.join(60)
