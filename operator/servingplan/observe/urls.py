"""Decides which URLs of a plan the operator asks, and at which addresses.

The editors of a namespace's plans choose these URLs, and the operator's pod may reach more than they may. So a URL must name a
Service of the plan's own namespace, or a host that the installation lists. The API server looks the Service up, not DNS, so the
URL cannot mean a name elsewhere.
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
"""Scheme, host, port, path and query of RFC 3986. User names, fragments and everything ambiguous in URLs are not
allowed."""
_SERVICE = re.compile(
    r"(?P<name>[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\.(?P<namespace>[-a-z0-9]{1,63})(\.svc(\.cluster\.local)?)?"
)
_PORTS = {"http": 80, "https": 443}


class UrlRefused(ServingPlanError):  # noqa: N818 (a decision about a URL, reported by a condition)
    """The installation does not allow the operator to ask this URL. The message says what to do."""


class NoAnswer(ServingPlanError):  # noqa: N818 (for the log, never for a status)
    """An allowed URL gave no usable answer."""


@dataclass(frozen=True)
class Target:
    """A URL that may be asked."""

    scheme: str
    host: str
    """The host without brackets."""
    port: int
    path: str
    """The path with the query; empty if the URL has none."""
    addresses: tuple[str, ...] | None
    """The addresses of a Service of the plan's namespace. None: the installation allows the host, and DNS resolves it."""

    @property
    def authority(self) -> str:
        """Host and port, in the form of a URL and of the header ``Host``."""
        return _authority(self.host, self.port)

    @property
    def url(self) -> str:
        """The URL with the host's name."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def url_at_address(self) -> str:
        """The URL with the first address, so that a changed name has no effect. Without addresses, and with TLS, whose
        certificate is for the name, the URL has the name."""
        if not self.addresses or self.scheme == "https":
            return self.url
        return f"{self.scheme}://{_authority(self.addresses[0], self.port)}{self.path}"


class UrlPolicy:
    """Returns the target of a plan's URL, or refuses the URL."""

    def __init__(self, api: Api, *, allowed_hosts: frozenset[str] | None) -> None:
        """``allowed_hosts``: ``HOST`` (any port) or ``HOST:PORT``; None allows every host."""
        self._api = api
        self._allowed = None if allowed_hosts is None else frozenset(item.lower() for item in allowed_hosts)

    def target(self, url: str, *, field: str, namespace: str) -> Target:
        """The target of a URL in the ``field`` of a plan of ``namespace``.

        Raises ``UrlRefused`` if it may not be asked, ``NoAnswer`` if the Service does not exist or cannot be read.
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
                f"installation allows; write NAME.{namespace} as its host, or ask for the host in the chart's allowedHosts"
            )
        return Target(scheme, host, port, path, tuple(self._addresses(service["name"], namespace, field)))

    def _addresses(self, name: str, namespace: str, field: str) -> Iterator[str]:
        try:
            spec = self._api.get(SERVICES, name, namespace=namespace).get("spec") or {}
            if spec.get("type") == "ExternalName":
                raise UrlRefused(
                    f"{field}: Service {name} of namespace {namespace} leads elsewhere (ExternalName) and is not asked; name "
                    "a Service with replicas, or ask for the host in the chart's allowedHosts"
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
        """The addresses of the ready endpoints of a headless Service, each once, in order."""
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
    """Whether the address is not loopback, link-local, multicast or unspecified: not the operator's own pod or node."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    for item in (address, mapped) if mapped is not None else (address,):
        if item.is_loopback or item.is_link_local or item.is_multicast or item.is_unspecified:
            return False
    return True
