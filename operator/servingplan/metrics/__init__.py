"""METRICS. What the operator tells of itself: `samples` is pure, `exporter` keeps and serves. Table: `docs/metrics.md`."""
