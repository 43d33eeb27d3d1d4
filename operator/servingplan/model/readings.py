"""What was read beside the cluster's own objects: arrivals, figures of engines, answers of gateways, and files in ConfigMaps.

They are parts of an ``Observation`` (``model.world``).
"""

from __future__ import annotations

from servingplan.model.fact import Fact


class Arrivals(Fact):
    """Requests of one class as they were counted."""

    model: str
    name: str
    """The name of the class."""
    intervals: tuple[tuple[float, float, float], ...] = ()
    """The counts in order of time: end (Unix seconds), length (seconds), requests. They do not overlap; gaps are possible."""
    history: tuple[tuple[float, float], ...] = ()
    """The hours of the last days: end of an hour (Unix seconds), mean of the hour (requests/s)."""
    failing_since: str | None = None
    """RFC 3339; since when nothing usable was read. Absent: ``intervals`` are fresh."""

    @property
    def key(self) -> str:
        """``model/class``."""
        return f"{self.model}/{self.name}"


class SeenDemand(Fact):
    """What Prometheus told about the arrivals of the plan's classes."""

    signal: str = ""
    """Which way of counting matched; empty: none yet."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that matched."""
    problem: str | None = None
    """Why the last reading failed, for people; it does not change from reading to reading."""
    refused: str | None = None
    """Why nothing is asked, and what to do."""
    refused_reason: str = ""
    """The same for programs."""
    classes: tuple[Arrivals, ...] = ()
    """The arrivals, ordered by model and class."""


class EngineFigures(Fact):
    """What the engine of one pod measured over a window."""

    pod: str
    requests: float
    """The number of requests that ended."""
    input_tokens: float | None = None
    """The mean length of their prompts; None, as below: there were none, or the engine does not tell it."""
    output_tokens: float | None = None
    """The mean length of their answers."""
    ttft_seconds: float | None = None
    """The mean time to the first token."""
    tpot_seconds: float | None = None
    """The mean time per further token, of each request."""
    gap_seconds: float | None = None
    """The mean time between two outputs, in place of ``tpot_seconds`` where an engine does not tell that."""
    running: float
    """The mean number of requests in the batch."""
    least_waiting: float
    """The fewest requests that were in the queue."""


class SeenEngines(Fact):
    """What Prometheus told about the plan's engines."""

    at: str = ""
    """The end of the window, RFC 3339; empty: nothing was read."""
    window_seconds: float = 0.0
    """The length of the window."""
    problem: str | None = None
    """Why the last reading failed, for people."""
    refused: str | None = None
    """Why nothing is asked, and what to do."""
    refused_reason: str = ""
    """The same for programs."""
    engines: tuple[EngineFigures, ...] = ()
    """The figures of pods that were there for the whole window, by name."""


class GatewayFacts(Fact):
    """What the replicas of the gateway said when they were asked."""

    revisions: tuple[int | None, ...] = ()
    """The revision of the weights that each has taken; None: it did not answer, or not for this plan."""
    problem: str | None = None
    """The text for people where nobody answered."""
    refused: str | None = None
    """Why the URL is not asked, and what to do."""

    @property
    def taken(self) -> int | None:
        """The revision that all of them have; None where they differ, or one did not answer."""
        return self.revisions[0] if len(set(self.revisions)) == 1 else None

    @property
    def answers(self) -> bool:
        """Whether any of them answered."""
        return any(revision is not None for revision in self.revisions)


class SeenProfiles(Fact):
    """Measured rates that the plan names."""

    config_map: str
    """Name of the ConfigMap, or of the file that stands for it offline."""
    rows: str = ""
    """CSV; ``profiles.rows`` reads it."""
    problem_reason: str | None = None
    """ProfilesMissing, ReadForbidden, ReadFailed: why there are no rows."""
    problem: str | None = None
    """The same for people."""


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
    """Why it could not be had, for people."""
