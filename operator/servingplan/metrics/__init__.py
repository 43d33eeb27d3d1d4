"""METRICS. The operator's own metrics: `samples` is pure, `exporter` keeps and serves them. Table: `docs/metrics.md`."""
