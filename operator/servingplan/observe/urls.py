"""Which URLs of a plan the operator asks, and at which addresses.

Whoever may edit plans of a namespace chooses these URLs, and the operator's pod may reach more than they may. So a URL must
name a Service of the plan's own namespace, or a host that the installation lists. A Service is found by the API server, not
by DNS: no name of anywhere else can be meant.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from servingplan.errors import ApiError, ServingPlanError
from servingplan.kube import ENDPOINT_SLICES, SERVICES, Api
from servingplan.model import names

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)"
)
"""Scheme, host, port, path and query of RFC 3986. User names, fragments and all that readers of URLs may read in two ways
are left out."""
_SERVICE = re.compile(
    r"(?P<name>[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\.(?P<namespace>[-a-z0-9]{1,63})(\.svc(\.cluster\.local)?)?"
)
_PORTS = {"http": 80, "https": 443}


class UrlRefused(ServingPlanError):  # noqa: N818 (a decision about a URL, told by a condition)
    """The installation does not let the operator ask this URL. The message says what to do."""


class NoAnswer(ServingPlanError):  # noqa: N818 (whatever the cause: it is for the log, never for a status)
    """A URL that may be asked gave nothing that can be used."""


@dataclass(frozen=True)
class Target:
    """What to ask."""

    scheme: str
    host: str
    """Without brackets."""
    port: int
    path: str
    """With the query; empty where the URL has none."""
    addresses: tuple[str, ...] | None
    """Where it is: of a Service of the plan's namespace. None: wherever the name leads, which the installation trusts."""

    @property
    def authority(self) -> str:
        """Host and port, as a URL and the header ``Host`` write them."""
        return _authority(self.host, self.port)

    @property
    def url(self) -> str:
        """To ask by name."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def url_at_address(self) -> str:
        """To ask at the first address, whatever the name means by then; by name where there are no addresses, and with TLS,
        whose certificate answers for the name."""
        if not self.addresses or self.scheme == "https":
            return self.url
        return f"{self.scheme}://{_authority(self.addresses[0], self.port)}{self.path}"


class UrlPolicy:
    """Says where a plan's URL leads, or that it may not be asked."""

    def __init__(self, api: Api, *, allowed_hosts: frozenset[str] | None) -> None:
        """``allowed_hosts``: ``HOST`` (any port) or ``HOST:PORT``; None allows every host."""
        self._api = api
        self._allowed = None if allowed_hosts is None else frozenset(item.lower() for item in allowed_hosts)

    def target(self, url: str, *, field: str, namespace: str) -> Target:
        """Where a URL leads that the ``field`` of a plan of ``namespace`` has.

        Raises ``UrlRefused`` where it may not be asked, ``NoAnswer`` where the Service is not there or cannot be read.
        """
        found = _URL.fullmatch(url)
        port = int(found["port"] or _PORTS[found["scheme"]]) if found else 0
        if found is None or not 0 < port < 65536:
            raise UrlRefused(
                f"{field}: {url!r}: is not asked; write http://NAME.{namespace}:PORT/PATH without user name or fragment"
            )
        scheme, path = found["scheme"], found["path"]
        host = found["host"].lower().strip("[]")
        if self._allowed is None or host in self._allowed or _authority(host, port) in self._allowed:
            return Target(scheme, host, port, path, None)
        service = _SERVICE.fullmatch(host)
        if service is None or service["namespace"] != namespace:
            raise UrlRefused(
                f"{field}: {url!r}: is not asked, since it names no Service of namespace {namespace} and no host that this "
                f"installation allows; write NAME.{namespace} as its host, or have the host added to the chart's allowedHosts"
            )
        return Target(scheme, host, port, path, tuple(self._addresses(service["name"], namespace, field)))

    def _addresses(self, name: str, namespace: str, field: str) -> Iterator[str]:
        try:
            spec = self._api.get(SERVICES, name, namespace=namespace).get("spec") or {}
            if spec.get("type") == "ExternalName":
                raise UrlRefused(
                    f"{field}: Service {name} of namespace {namespace} leads elsewhere (ExternalName) and is not asked; name "
                    "a Service with replicas, or have the host added to the chart's allowedHosts"
                )
            address = spec.get("clusterIP")
            found = list(self._behind(name, namespace)) if address == "None" else [address]
        except ApiError as error:
            raise NoAnswer(f"Service {name} of namespace {namespace} cannot be read: {error}") from error
        usable = [item for item in found if isinstance(item, str) and _is_elsewhere(item)]
        if not usable:
            raise NoAnswer(f"Service {name} of namespace {namespace} has no address")
        yield from usable

    def _behind(self, name: str, namespace: str) -> Iterator[str]:
        """Addresses of the ready replicas of a headless Service, each once, in order."""
        label = f"{names.SERVICE_LABEL}={name}"
        found = {
            str(address)
            for item in self._api.list(ENDPOINT_SLICES, namespace=namespace, labels=label)
            for endpoint in item.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint.get("addresses") or ()
        }
        yield from sorted(found)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_elsewhere(text: str) -> bool:
    """Whether it is the address of something else than the operator's own pod, its node, or many at a time."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    for item in (address, mapped) if mapped is not None else (address,):
        if item.is_loopback or item.is_link_local or item.is_multicast or item.is_unspecified:
            return False
    return True
