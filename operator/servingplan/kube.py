"""EFFECT. The only access to the Kubernetes API: JSON in, JSON out, every refusal a typed error.

The client's generated classes are not used: the operator reads a few fields of large lists and writes manifests that it renders
itself, and server-side apply is the same request for every kind. Only the client's configuration (kubeconfig, in-cluster token
with renewal, TLS) and its connection pool are used.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import kubernetes.client
import kubernetes.config
import urllib3.exceptions
import yaml

from servingplan.errors import ApiError, InputError, NotFound, api_error

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
PAGE_SIZE = 500
WATCH_SECONDS = 240
"""A watch is restarted this often, so that a silent one is not relied on for long."""
LONGEST_RETRY_AFTER_SECONDS = 120.0
"""How long a server is left alone at most, whatever it asks for. The API server asks for seconds."""
SILENCE_SECONDS = 90.0
"""A watch with bookmarks is given up if it is silent for this long."""
FOLLOW_SECONDS = 60
"""How often ``Kube.follow`` is restarted, since nothing else would notice a silent one."""

MOST_CONNECTIONS = 64
"""The most open connections: one for each watch, and those of the turns."""
RETRY_SECONDS = 4.0
"""How long a request is retried within a turn if the API server is busy or away for a moment."""
FIRST_RETRY_PAUSE_SECONDS = 0.1

Json = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A kind of object, with the API server's names."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True
    scalable: bool = field(default=False, compare=False)
    """It serves ``/scale``; only known of kinds that were discovered."""

    @property
    def base(self) -> str:
        """The URL path of the group and version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection or an object."""
        parts = [self.base]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace)]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


NODES = Resource("v1", "nodes", "Node", namespaced=False)
PODS = Resource("v1", "pods", "Pod")
SERVICES = Resource("v1", "services", "Service")
DISRUPTION_BUDGETS = Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
EVENTS = Resource("v1", "events", "Event")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
LEADER_WORKER_SETS = Resource("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "LeaderWorkerSet")
HTTP_ROUTES = Resource("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute")
RESOURCE_SLICES = Resource("resource.k8s.io/v1", "resourceslices", "ResourceSlice", namespaced=False)
RESOURCE_CLAIMS = Resource("resource.k8s.io/v1", "resourceclaims", "ResourceClaim")
RESOURCE_CLAIM_TEMPLATES = Resource("resource.k8s.io/v1", "resourceclaimtemplates", "ResourceClaimTemplate")
DEVICE_CLASSES = Resource("resource.k8s.io/v1", "deviceclasses", "DeviceClass", namespaced=False)
PLANS = Resource("servingplan.dev/v1alpha1", "llmservingplans", "LLMServingPlan")


class Api(Protocol):
    """The calls to the API server. Every method raises ``ApiError`` and blocks, so call it in a thread."""

    def list(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]:
        """The objects of a kind, read page by page."""
        ...

    def get(
        self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Json:
        """The object of this name."""
        ...

    def create(self, resource: Resource, manifest: Json, *, namespace: str | None = None) -> Json:
        """Create an object and return it."""
        ...

    def apply(
        self,
        resource: Resource,
        manifest: Json,
        *,
        manager: str,
        force: bool,
        subresource: str | None = None,
    ) -> Json:
        """Write an object by server-side apply and return it."""
        ...

    def merge(
        self,
        resource: Resource,
        name: str,
        patch: Json,
        *,
        manager: str,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """Write a JSON merge patch and return the object."""
        ...

    def json_patch(
        self, resource: Resource, name: str, operations: Sequence[Json], *, manager: str, namespace: str | None = None
    ) -> Json:
        """Write a JSON patch (RFC 6902) and return the object. If a ``test`` fails, write nothing and raise ``Invalid``."""
        ...

    def delete(self, resource: Resource, name: str, *, uid: str, namespace: str | None = None) -> Json | None:
        """Delete an object if it still has this uid; it is no error if it is already gone. Returns the object if it ends
        gradually, None if it is gone."""
        ...

    def discover(self, api_version: str, kind: str) -> Resource:
        """The resource of a kind. Raises ``NotFound`` if the API server does not know it."""
        ...

    def forget(self, resource: Resource) -> None:
        """Discover the resource again next time, since the API server answered that it does not know it."""
        ...

    def pages(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]:
        """The lists of objects of a kind, page by page, all of one resource version."""
        ...

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        since: str | None = None,
    ) -> Iterator[tuple[str, Json]]:
        """The event types and objects of one watch, until the server ends it: the changes ``since`` a resource version, or
        all existing objects first. ``OPEN`` comes first. ``BOOKMARK`` has only a resource version. Raises ``Gone``."""
        ...


class Kube:
    """``Api`` over HTTP, through the connection pool of the Kubernetes client."""

    may_write: Callable[[], bool] | None = None
    """If set, it is called before each write: a process that is no longer the leader writes nothing."""

    def __init__(
        self,
        client: kubernetes.client.ApiClient,
        *,
        timeout_seconds: float = 15.0,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._pool = client.rest_client.pool_manager
        self._configuration = client.configuration
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._resources: dict[tuple[str, str], Resource] = {}
        self._lock = threading.Lock()

    @classmethod
    def connect(cls, *, timeout_seconds: float = 15.0, retry_seconds: float = RETRY_SECONDS) -> Kube:
        """Connect with the pod's service account, or else with the user's kubeconfig. Raises ``InputError`` without either."""
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except kubernetes.config.ConfigException:
            try:
                kubernetes.config.load_kube_config(client_configuration=configuration)
            except (kubernetes.config.ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
                place = os.environ.get("KUBECONFIG") or kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION
                there = any(Path(part).expanduser().exists() for part in place.split(os.pathsep))
                why = " ".join(str(error).split()) if there else "there is no such file"
                advice = f"is not a usable kubeconfig ({why}); name another one, or run in a pod of the cluster"
                raise InputError("KUBECONFIG", place, advice) from error
        configuration.retries = False
        configuration.connection_pool_maxsize = MOST_CONNECTIONS
        client = kubernetes.client.ApiClient(configuration)
        return cls(client, timeout_seconds=timeout_seconds, retry_seconds=retry_seconds)

    def list(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]:
        for page in self.pages(resource, namespace=namespace, labels=labels, fields=fields):
            yield from page.get("items") or ()

    def follow(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[tuple[str, Json]]:
        """The list of all objects as ``LISTED``, then the changes since, until the server ends it. Unlike with ``watch``, an
        object that was deleted between two calls is not kept."""
        items: list[Json] = []
        version = ""
        for page in self.pages(resource, namespace=namespace, labels=labels, fields=fields):
            items += page.get("items") or ()
            version = page.get("metadata", {}).get("resourceVersion", "")
        yield "LISTED", {"items": items}
        yield from self._watch(resource, namespace, labels, fields, version, FOLLOW_SECONDS)

    def pages(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]:
        query = {"limit": str(PAGE_SIZE), **_selectors(labels, fields)}
        while True:
            page = self._request("GET", resource.path(namespace=namespace), query=query)
            yield page
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def get(
        self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Json:
        return self._request("GET", resource.path(namespace=namespace, name=name, subresource=subresource))

    def create(self, resource: Resource, manifest: Json, *, namespace: str | None = None) -> Json:
        return self._request("POST", resource.path(namespace=namespace), body=manifest)

    def apply(
        self,
        resource: Resource,
        manifest: Json,
        *,
        manager: str,
        force: bool,
        subresource: str | None = None,
    ) -> Json:
        metadata = manifest["metadata"]
        path = resource.path(namespace=metadata.get("namespace"), name=metadata["name"], subresource=subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self._request("PATCH", path, query=query, body=manifest, content_type=APPLY)

    def merge(
        self,
        resource: Resource,
        name: str,
        patch: Json,
        *,
        manager: str,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return self._request("PATCH", path, query={"fieldManager": manager}, body=patch, content_type=MERGE)

    def json_patch(
        self, resource: Resource, name: str, operations: Sequence[Json], *, manager: str, namespace: str | None = None
    ) -> Json:
        path = resource.path(namespace=namespace, name=name)
        return self._request("PATCH", path, query={"fieldManager": manager}, body=operations, content_type=JSON_PATCH)

    def delete(self, resource: Resource, name: str, *, uid: str, namespace: str | None = None) -> Json | None:
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            found = self._request("DELETE", resource.path(namespace=namespace, name=name), body=options)
        except NotFound:
            return None
        return found if found.get("kind") != "Status" and "metadata" in found else None

    def discover(self, api_version: str, kind: str) -> Resource:
        key = (api_version, kind)
        with self._lock:
            known = self._resources.get(key)
        if known is not None:
            return known
        base = Resource(api_version, "", kind).base
        served = self._request("GET", base).get("resources", ())
        for item in served:
            if item["kind"] == kind and "/" not in item["name"]:
                scalable = any(other["name"] == f"{item['name']}/scale" for other in served)
                found = Resource(api_version, item["name"], kind, bool(item["namespaced"]), scalable)
                with self._lock:
                    self._resources[key] = found
                return found
        raise NotFound(404, "NotFound", f"the API server knows no kind {kind} in {api_version}")

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The served versions of each API group, the preferred one first; the group without a name is not among them."""
        found = {}
        for group in self._request("GET", "/apis").get("groups") or ():
            preferred = group["preferredVersion"]["version"]
            others = (item["version"] for item in group["versions"] if item["version"] != preferred)
            found[group["name"]] = (preferred, *others)
        return found

    def forget(self, resource: Resource) -> None:
        with self._lock:
            self._resources.pop((resource.api_version, resource.kind), None)

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        since: str | None = None,
    ) -> Iterator[tuple[str, Json]]:
        # The API server keeps no cache of Events, so it sends no bookmarks of them: their watches may be silent for long.
        silence_seconds = SILENCE_SECONDS if resource != EVENTS else WATCH_SECONDS + 30.0
        yield from self._watch(resource, namespace, labels, fields, since, WATCH_SECONDS, silence_seconds)

    def _watch(
        self,
        resource: Resource,
        namespace: str | None,
        labels: str | None,
        fields: str | None,
        since: str | None,
        seconds: int,
        silence_seconds: float | None = None,
    ) -> Iterator[tuple[str, Json]]:
        bookmarks = "false" if silence_seconds is None else "true"
        query = {"watch": "true", "timeoutSeconds": str(seconds), "allowWatchBookmarks": bookmarks}
        query |= _selectors(labels, fields)
        if since:
            query["resourceVersion"] = since
        url = f"{self._configuration.host}{resource.path(namespace=namespace)}?{urlencode(query)}"
        # The server closes a silent connection in time. This limit closes one that died silently: bookmarks come each minute,
        # so a connection that is silent for longer is dead.
        timeout = urllib3.Timeout(connect=10, read=silence_seconds or seconds + 30)
        try:
            response = self._pool.request(
                "GET", url, headers=self._headers(), timeout=timeout, retries=False, preload_content=False
            )
            try:
                if response.status >= 300:
                    raise _error_of(response, f"watch {resource.plural}")
                if silence_seconds is not None:
                    yield "OPEN", {"metadata": {}}
                for line in _lines(response.stream(65536)):
                    event = json.loads(line)
                    if event.get("type") == "ERROR":
                        status = event.get("object") or {}
                        raise api_error(status.get("code", 0), status.get("reason", ""), status.get("message", ""))
                    yield event["type"], event["object"]
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"watch {resource.plural}: {error}") from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "servingplan"}
        if token := self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        return headers

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json | Sequence[Json] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        headers = self._headers()
        data: bytes | None = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body).encode()
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        end = time.monotonic() + self._retry_seconds
        pause = FIRST_RETRY_PAUSE_SECONDS
        while True:
            try:
                return self._request_once(method, url, data, headers, f"{method} {path}")
            except ApiError as error:
                wait = max(pause, error.retry_after_seconds or 0.0)
                if not _is_transient(error, method) or time.monotonic() + wait > end:
                    raise
            time.sleep(wait)
            pause *= 2

    def _request_once(self, method: str, url: str, data: bytes | None, headers: dict[str, str], request: str) -> Json:
        if method != "GET" and self.may_write is not None and not self.may_write():
            raise ApiError(0, "NotLeading", f"{request}: this operator no longer has the lease")
        try:
            response = self._pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout_seconds, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, "Unreachable", f"{request}: {error}") from error
        if response.status >= 300:
            raise _error_of(response, request)
        try:
            parsed: Json = json.loads(response.data) if response.data else {}
        except ValueError as error:
            raise ApiError(0, "Unreachable", f"{request}: the answer is no JSON: {error}") from error
        return parsed


def _is_transient(error: ApiError, method: str) -> bool:
    """Whether the same request may succeed in a moment, and may be sent twice.

    A request with 429 was not carried out. 500 is not transient, since admission and storage errors mostly stay. A POST that
    may have been carried out is not sent again; our PATCH and DELETE have the same effect when repeated.
    """
    return error.status == 429 or (error.status in (0, 502, 503, 504) and method != "POST")


def _seconds(header: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for, as far as that is done; None if it is absent or not a number."""
    try:
        return None if header is None else min(max(0.0, float(header)), LONGEST_RETRY_AFTER_SECONDS)
    except ValueError:
        return None


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    found = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in found.items() if value}


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)


def _error_of(response: urllib3.BaseHTTPResponse, request: str) -> ApiError:
    """The error that an answer tells, with the pause that it asks for."""
    data = response.data
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    message = answer.get("message") or data[:200].decode(errors="replace") or request
    error = api_error(response.status, answer.get("reason") or f"HTTP{response.status}", message)
    error.retry_after_seconds = _seconds(response.headers.get("Retry-After"))
    return error
