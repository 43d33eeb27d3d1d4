"""What was read beside the cluster's own objects: arrivals, figures of engines, answers of gateways, and files in ConfigMaps.

They are parts of an ``Observation`` (``model.world``).
"""

from __future__ import annotations

from servingplan.model.fact import Fact


class Arrivals(Fact):
    """The counted requests of one class."""

    model: str
    name: str
    """The name of the class."""
    intervals: tuple[tuple[float, float, float], ...] = ()
    """The counts in order of time: end (Unix seconds), length (seconds), requests. They do not overlap; gaps are possible."""
    history: tuple[tuple[float, float], ...] = ()
    """The hours of the last days: end of an hour (Unix seconds), mean of the hour (requests/s)."""
    failing_since: str | None = None
    """Since when nothing usable was read, RFC 3339; None if ``intervals`` are fresh."""

    @property
    def key(self) -> str:
        """``model/class``."""
        return f"{self.model}/{self.name}"


class SeenDemand(Fact):
    """The arrivals of the plan's classes, as Prometheus has them."""

    signal: str = ""
    """The name of the way of counting that matched; empty if none has yet."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that matched."""
    problem: str | None = None
    """Why the last reading failed, for people. The text is the same for repeated failures."""
    refused: str | None = None
    """Why Prometheus is not asked, and what to do; None if it is asked."""
    refused_reason: str = ""
    """The reason for programs."""
    classes: tuple[Arrivals, ...] = ()
    """The arrivals, ordered by model and class."""


class Histogram(Fact):
    """Counts of values by upper bound, as engines publish them."""

    bounds: tuple[float, ...]
    """The finite upper bounds, rising."""
    counts: tuple[float, ...]
    """The values of at most each bound. They never fall."""
    total: float
    """All values."""


class EngineFigures(Fact):
    """What the engine of one pod measured over a window."""

    pod: str
    requests: float
    """The number of requests that ended."""
    input_tokens: float | None = None
    """The mean length of their prompts. This and the following means are None if no request ended, or if the engine does
    not report them."""
    output_tokens: float | None = None
    """The mean length of their answers."""
    ttft_seconds: float | None = None
    """The mean time to the first token."""
    tpot_seconds: float | None = None
    """The mean time per further token of each request."""
    gap_seconds: float | None = None
    """The mean time between two outputs, for engines that do not report ``tpot_seconds``."""
    ttft: Histogram | None = None
    """The times to the first token, in seconds; None if they were not read."""
    tpot: Histogram | None = None
    """The times per further token of each request."""
    prompts: Histogram | None = None
    """The lengths of prompts, in tokens."""
    running: float
    """The mean number of requests in the batch."""
    least_waiting: float
    """The fewest requests that were in the queue."""


class SeenEngines(Fact):
    """The figures of the plan's engines, as Prometheus has them."""

    at: str = ""
    """The end of the window, RFC 3339; empty if nothing was read."""
    window_seconds: float = 0.0
    """The length of the window."""
    problem: str | None = None
    """Why the last reading failed, for people."""
    refused: str | None = None
    """Why Prometheus is not asked, and what to do; None if it is asked."""
    refused_reason: str = ""
    """The reason for programs."""
    engines: tuple[EngineFigures, ...] = ()
    """The figures of pods that existed for the whole window, ordered by name."""


class GatewayFacts(Fact):
    """The answers of the gateway's replicas."""

    revisions: tuple[int | None, ...] = ()
    """The revision of the weights that each replica has; None if it did not answer, or not for this plan."""
    problem: str | None = None
    """Why nobody answered, for people."""
    refused: str | None = None
    """Why the URL is not asked, and what to do; None if it is asked."""

    @property
    def taken(self) -> int | None:
        """The revision that all of them have; None if they differ, or if one did not answer."""
        return self.revisions[0] if len(set(self.revisions)) == 1 else None

    @property
    def answers(self) -> bool:
        """Whether any of them answered."""
        return any(revision is not None for revision in self.revisions)


class SeenProfiles(Fact):
    """A plan's own measurements."""

    config_map: str
    """Name of the ConfigMap, or of the file that stands for it offline."""
    rows: str = ""
    """CSV; ``profiles.rows`` reads it."""
    problem_reason: str | None = None
    """ProfilesMissing, ReadForbidden or ReadFailed: why there are no rows."""
    problem: str | None = None
    """The same reason for people."""


class SeenCatalogue(Fact):
    """Rows that the installation adds to the catalogue: one key of one ConfigMap."""

    config_map: str
    """Name of the ConfigMap, or of the file that stands for it offline."""
    kind: str
    """``models``, ``gpus`` or ``prices``, as the label says."""
    key: str = ""
    text: str = ""
    """``profiles.additions`` reads it."""
    problem: str | None = None
    """Why there are no rows, for people."""


class SeenModelConfig(Fact):
    """A model's own ``config.json``, from a ConfigMap that the plan names."""

    config_map: str
    text: str = ""
    problem: str | None = None
    """Why it could not be read, for people."""
