"""What providers of nodes say when a machine cannot be had: on the pool's own object, on Karpenter's NodeClaims, in Events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from servingplan.model.times import text_of
from servingplan.model.world import Refusal
from servingplan.observe.parse import Json

NODE_POOL_LABEL = "karpenter.sh/nodepool"
CLAIM_REFUSED = "InsufficientCapacityError"
"""The reason of Karpenter's Event on a refused NodeClaim, which Karpenter then deletes."""
OUT_OF_STOCK = (
    "insufficientcapacity",
    "insufficientinstancecapacity",
    "insufficienthostcapacity",
    "reservationcapacityexceeded",
    "unfulfillablecapacity",
    "asginstancelaunchfailures",
    "resource_pool_exhausted",
    "stockout",
    "outofstock",
    "allocationfailed",
    "skunotavailable",
    "quotaexceeded",
    "quota_exceeded",
    "vcpulimitexceeded",
    "instancelimitexceeded",
)
"""Words, without spaces and in small letters, by which providers refuse a machine: Karpenter, EC2 and its Auto Scaling groups,
GCE, Azure, and quotas, which count as limits of stock."""


class SeenRefusal(NamedTuple):
    """The refusal of a NodeClaim, which got no node."""

    pool: str
    """The name of its Karpenter NodePool."""
    refusal: Refusal


def seen_claim(item: Json) -> SeenRefusal | None:
    """The refusal of a NodeClaim for lack of capacity; None if it was not refused."""
    pool = (item["metadata"].get("labels") or {}).get(NODE_POOL_LABEL)
    for condition in (item.get("status") or {}).get("conditions") or ():
        refused = condition.get("type") == "Launched" and condition.get("status") in ("False", "Unknown")
        if pool and refused and _says_out_of_stock(condition.get("reason")):
            return SeenRefusal(pool, _refusal(condition, condition.get("lastTransitionTime")))
    return None


def seen_claim_event(item: Json) -> SeenRefusal | None:
    """The refusal in an Event on a NodeClaim; else None. The claim is gone by then. Its name is the pool's with a suffix."""
    about = item.get("involvedObject") or {}
    pool, _, suffix = str(about.get("name", "")).rpartition("-")
    if item.get("reason") != CLAIM_REFUSED or about.get("kind") != "NodeClaim" or not (pool and suffix):
        return None
    times = ((item.get("series") or {}).get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"))
    at = next((time for time in times if time), item["metadata"].get("creationTimestamp"))
    return SeenRefusal(pool, _refusal(item, at))


def own_refusal(status: Json) -> Refusal | None:
    """The refusal in a pool object's own conditions or in its provider's health issues; None if there is none."""
    for condition in status.get("conditions") or ():
        texts = (condition.get("reason"), condition.get("message"))
        if condition.get("lastTransitionTime") and any(map(_says_out_of_stock, texts)):
            return _refusal(condition, condition["lastTransitionTime"])
    return None


def _says_out_of_stock(text: Any) -> bool:
    plain = str(text or "").lower().replace(" ", "")
    return any(word in plain for word in OUT_OF_STOCK)


def _refusal(item: Json, at: Any) -> Refusal:
    moment = text_of(datetime.fromisoformat(str(at)).astimezone(UTC))
    return Refusal(at=moment, message=str(item.get("message") or item.get("reason") or "")[:300])
