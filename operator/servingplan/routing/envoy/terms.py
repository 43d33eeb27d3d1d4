"""The names that the parts of Envoy's configuration share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

TYPE = "type.googleapis.com/"
MODEL_HEADER = "x-servingplan-model"
CLASS_HEADER = "x-servingplan-class"
SESSION_HEADER = "x-session-id"
"""The header for sessions: requests with the same value go to the same replica while it exists."""
REVISION_HEADER = "x-servingplan-revision"
REVISION_PATH = "/servingplan/revision"
ROUTES = "servingplan"
METADATA = "servingplan"
"""The metadata namespace of what the listener's filters read: ``model``, ``max_tokens``, ``problem``."""
MALFORMED, NO_MODEL = "malformed", "no-model"
"""The values of ``problem``."""
LIMIT_FILTER = "envoy.filters.http.local_ratelimit"
LIMIT_TYPE = f"{TYPE}envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
ARRIVALS_FILTER = "servingplan.arrivals"
"""A rate limit without effect, which counts the requests of each class before any is turned away."""
BUFFER_FILTER = "envoy.filters.http.buffer"
BODY_FILTER = "envoy.filters.http.json_to_metadata"
BODY_LIMIT_BYTES = 32 * 2**20
"""The longest body that is read for model and class: some eight million tokens of text, or 24 MB of images in base64."""


@dataclass(frozen=True)
class Place:
    """The files and ports of an Envoy."""

    folder: str = "/etc/envoy/routing"
    port: int = 8080
    admin_port: int = 9901
    stats_port: int | None = None
    """The port with only its counters, for Prometheus; None: no such port."""

    def followed(self, name: str) -> Json:
        """The source of a file that Envoy reads again when anything in its folder is moved. The kubelet exchanges a link
        there, which a watch of the file itself would miss."""
        source = {"path": f"{self.folder}/{name}", "watched_directory": {"path": self.folder}}
        return {"path_config_source": source, "resource_api_version": "V3"}


USUAL = Place(stats_port=9902)
"""The place with a mounted ConfigMap."""
