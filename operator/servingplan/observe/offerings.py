"""What Karpenter says that its cloud sells: the offerings of types of instances, from the metrics that Prometheus scrapes.

Karpenter's provider for AWS publishes, by type of instance, capacity type and zone, whether an offering can be had, and an
estimate of its price (aws/karpenter-provider-aws, pkg/providers/instancetype/metrics.go). It says for three minutes after a
refusal that there is none. Other providers publish nothing, and then nothing is known here.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from servingplan.demand.signals import Query
from servingplan.model.world import NodeTemplate, Offered
from servingplan.observe.prometheus import Source, ask
from servingplan.observe.urls import NoAnswer
from servingplan.settings import SharedPrometheus

log = logging.getLogger("servingplan")

AVAILABLE = "karpenter_cloudprovider_instance_type_offering_available"
PRICE = "karpenter_cloudprovider_instance_type_offering_price_estimate"
POLL_SECONDS = 30.0
KEPT_SECONDS = 120.0
"""A reading is used for this long, if later ones fail."""
UNWANTED_SECONDS = 600.0
"""Nothing is asked if no turn wanted an offering for this long."""
CAPACITY_TYPES = {"OnDemand": "on-demand", "Spot": "spot", "Reserved": "reserved"}
_LABELS = ("instance_type", "capacity_type", "zone")

AskFor = Callable[[str], Sequence[Mapping[str, Any]]]
"""The rows of a PromQL query. Raises ``NoAnswer``."""


class Offering(NamedTuple):
    """One type of instance in one zone."""

    instance_type: str
    capacity_type: str
    zone: str


class Reading(NamedTuple):
    """All offerings at one moment."""

    at: float
    """The time of the reading in monotonic seconds."""
    available: Mapping[Offering, bool]
    prices: Mapping[Offering, float]
    """$/h."""


class Market(Protocol):
    """Says what can be had of the nodes of pools."""

    def of(self, template: NodeTemplate) -> Offered | None:
        """What is known of the nodes that a pool's object makes; None if nothing is. Never blocks."""
        ...


class Offerings:
    """Reads the offerings beside the turns while pools of Karpenter are planned with. Thread-safe."""

    def __init__(self, shared: SharedPrometheus, ask_for: AskFor | None = None) -> None:
        """``shared`` is the Prometheus of the installation; without its URL nothing is known."""
        source = Source(shared.url, token_file=shared.token_file, ca_file=shared.ca_file)
        self._on = bool(shared.url)
        self._ask = ask_for or (lambda text: ask(source, Query(text, None), time.time(), reach=0))
        self._reading: Reading | None = None
        self._wanted_at = -math.inf
        self._told = ""
        self._stopped = threading.Event()
        self._wanted = threading.Event()

    def start(self) -> None:
        """Start reading, once a turn wants an offering."""
        if self._on:
            threading.Thread(target=self._read_on, name="offerings", daemon=True).start()

    def close(self) -> None:
        """Stop after the present query."""
        self._stopped.set()
        self._wanted.set()

    def of(self, template: NodeTemplate) -> Offered | None:
        """What is known of the nodes that a pool's object makes; None if nothing is. Never blocks."""
        if not self._on or not template.instance_types:
            return None
        self._wanted_at = time.monotonic()
        self._wanted.set()
        reading = self._reading
        if reading is None or self._wanted_at - reading.at > KEPT_SECONDS:
            return None
        return offered(reading, template)

    def read(self) -> None:
        """Read once. A failure is only logged: the last reading counts for a while."""
        try:
            available = {key: value > 0 for key, value in self._values(AVAILABLE).items()}
            prices = self._values(PRICE) if available else {}
        except NoAnswer as error:
            told = f"Karpenter's offerings cannot be read: {error}"
        else:
            self._reading = Reading(time.monotonic(), available, prices)
            told = f"Karpenter's offerings: {len(available)} are known"
        if told != self._told:
            self._told = told
            log.info(told)

    def _values(self, metric: str) -> dict[Offering, float]:
        """The values of a metric by offering; of several replicas of Karpenter the largest."""
        rows = self._ask(f"max by ({', '.join(_LABELS)}) ({metric})")
        found: dict[Offering, float] = {}
        try:
            for row in rows:
                labels, value = row["metric"], float(row["value"][1])
                if math.isfinite(value) and value >= 0:
                    found[Offering(*(str(labels.get(label, "")) for label in _LABELS))] = value
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise NoAnswer("its answer is not what the API of Prometheus promises") from error
        return found

    def _read_on(self) -> None:
        while not self._stopped.is_set():
            if time.monotonic() - self._wanted_at > UNWANTED_SECONDS:
                self._wanted.clear()
                self._wanted.wait()
                continue
            try:
                self.read()
            except Exception:
                log.exception("the reading of Karpenter's offerings failed")
            self._stopped.wait(POLL_SECONDS)


def offered(reading: Reading, template: NodeTemplate) -> Offered | None:
    """What a reading says of a pool: whether any of its offerings can be had, and the price of the dearest. None if it says
    nothing of them."""
    capacity_type = CAPACITY_TYPES.get(template.capacity_type or "")

    def fits(item: Offering) -> bool:
        return (
            item.instance_type in template.instance_types
            and capacity_type in (None, item.capacity_type)
            and (not template.zones or item.zone in template.zones)
        )

    available = [there for item, there in reading.available.items() if fits(item)]
    if not available:
        return None
    prices = [price for item, price in reading.prices.items() if fits(item)]
    return Offered(available=any(available), dollars_per_node_hour=max(prices, default=None))
