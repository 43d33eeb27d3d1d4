"""Measurements of what the project promises. ``python -m benchmarks`` runs all and rewrites ``docs/benchmarks.md``."""
