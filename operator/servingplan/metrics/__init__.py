"""METRICS. The operator's own metrics: `samples` is pure, `exporter` keeps and serves them. See `docs/reference-metrics.md`."""
