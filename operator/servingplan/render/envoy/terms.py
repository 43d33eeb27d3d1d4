"""Names that the parts of Envoy's configuration share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TYPE = "type.googleapis.com/"
MODEL_HEADER = "x-servingplan-model"
CLASS_HEADER = "x-servingplan-class"
SESSION_HEADER = "x-session-id"
"""Requests with the same value go to the same replica while it is there."""
REVISION_HEADER = "x-servingplan-revision"
REVISION_PATH = "/servingplan/revision"
ROUTES = "servingplan"
METADATA = "servingplan"
"""Namespace of what the listener's filters learnt of a request: ``model``, ``max_tokens``, ``problem``."""
MALFORMED, NO_MODEL = "malformed", "no-model"
"""Values of ``problem``."""
LIMIT_FILTER = "envoy.filters.http.local_ratelimit"
LIMIT_TYPE = f"{TYPE}envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
ARRIVALS_FILTER = "servingplan.arrivals"
"""A rate limit that limits nothing: it counts what comes to each class, before anything is turned away."""
BUFFER_FILTER = "envoy.filters.http.buffer"
BODY_FILTER = "envoy.filters.http.json_to_metadata"
BODY_LIMIT_BYTES = 32 * 2**20
"""Longest body that is read for its model and class: some eight million tokens of text, or 24 MB of images in base64."""


@dataclass(frozen=True)
class Place:
    """Where an Envoy finds its files and listens."""

    folder: str = "/etc/envoy/routing"
    port: int = 8080
    admin_port: int = 9901
    stats_port: int | None = None
    """Where it shows its counters to Prometheus, and nothing else of its admin endpoint."""

    def followed(self, name: str) -> Json:
        """A file that is read again when anything in its folder is moved. The kubelet swaps a link there; watching the
        file itself misses that."""
        source = {"path": f"{self.folder}/{name}", "watched_directory": {"path": self.folder}}
        return {"path_config_source": source, "resource_api_version": "V3"}


USUAL = Place(stats_port=9902)
"""Of a ConfigMap that is mounted."""
