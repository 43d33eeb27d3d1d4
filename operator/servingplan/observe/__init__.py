"""EFFECT, read only. One reading of the cluster becomes one ``Observation``; nothing is decided here."""
