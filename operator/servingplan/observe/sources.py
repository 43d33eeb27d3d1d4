"""The Prometheus that the readings for a plan come from, and what its readers have in common."""

from __future__ import annotations

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.observe.prometheus import Source
from servingplan.observe.urls import UrlPolicy, UrlRefused
from servingplan.settings import SharedPrometheus

URL = "spec.demand.prometheus.url"
NO_ANSWER = "gave no answer that can be used"
"""The same text for every cause, which only the log has: a status must not reveal open ports."""

Plan = tuple[str, str]
"""Namespace and name."""


class NotAsked(Exception):  # noqa: N818 (a decision, reported by a condition)
    """Prometheus is not asked; ``reason`` is the condition's reason."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def source_of(spec: PlanSpec, namespace: str, urls: UrlPolicy, shared: SharedPrometheus) -> tuple[Source, bool]:
    """The Prometheus to ask, and whether it is in the plan's own namespace.

    Raises ``NotAsked``, or ``NoAnswer`` if the URL has no address.
    """
    url = spec.demand.prometheus.url if spec.demand is not None else None
    if url is not None:
        try:
            target = urls.target(url, field=URL, namespace=namespace)
        except UrlRefused as error:
            raise NotAsked("UrlNotAllowed", str(error)) from error
        own = target.addresses is not None
        return Source(target.url_at_address, host=target.authority if own else None), own
    if shared.url:
        return Source(shared.url, token_file=shared.token_file, ca_file=shared.ca_file), False
    raise NotAsked(
        "PrometheusMissing",
        f"{URL} is not set, and this installation has no Prometheus of its own; set the URL of one in namespace "
        f"{namespace}, or ask for the chart's prometheus.url to be set",
    )
