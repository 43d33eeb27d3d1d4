"""Reminds KWOK of pods that it has not ended in time.

KWOK plays a stage when a pod changes. An error of the API server that it does not count as passing (a deadline that was
exceeded, an internal error) ends the attempt for good (kwok 0.8, pkg/kwok/controllers/utils.go, shouldRetry), and a pod that
nobody changes is never looked at again. A kubelet tries again for ever; here an annotation is the change.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from kubernetes import client

from localcluster import kubeconfig

log = logging.getLogger(__name__)

REMINDED_ANNOTATION = "localcluster/reminded-at"
LATE_SECONDS = 30
"""How long after the end of its grace period a pod is late."""
PERIOD_SECONDS = 10.0


def is_late(pod: dict[str, Any], now: datetime) -> bool:
    """Whether a pod with a node should have ended ``LATE_SECONDS`` ago; its deletion time is the end of its grace."""
    metadata = pod["metadata"]
    ends = metadata.get("deletionTimestamp")
    if ends is None or not pod.get("spec", {}).get("nodeName") or metadata.get("finalizers"):
        return False
    return now - datetime.fromisoformat(ends) > timedelta(seconds=LATE_SECONDS)


class Reminder:
    """Looks at all pods now and then, from entering to leaving the context."""

    def __init__(self, admin_kubeconfig: Path) -> None:
        self._kubeconfig = admin_kubeconfig
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reminder", daemon=True)
        self.reminded: list[str] = []
        """Pods that were late, with the moment."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with kubeconfig.client(self._kubeconfig) as connection:
            core = client.CoreV1Api(connection)
            while not self._stopped.wait(PERIOD_SECONDS):
                with contextlib.suppress(Exception):  # the API server is busy or away: the next look tells
                    self._look(core, connection)

    def _look(self, core: client.CoreV1Api, connection: client.ApiClient) -> None:
        now = datetime.now(UTC)
        for item in core.list_pod_for_all_namespaces().items:
            pod = connection.sanitize_for_serialization(item)
            if is_late(pod, now):
                name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
                annotations = {REMINDED_ANNOTATION: now.isoformat()}
                core.patch_namespaced_pod(name, namespace, {"metadata": {"annotations": annotations}})
                self.reminded.append(f"{namespace}/{name} at {now:%H:%M:%S}")
                log.warning("KWOK has not ended %s/%s: reminded", namespace, name)
