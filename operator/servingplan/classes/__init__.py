"""Request classes from a log of requests: read it, choose boundaries that a gateway can match, say what fewer cost.

Pure: a log comes in as text, classes as a plan has them go out. `docs/classes.md` explains the figures.
"""
