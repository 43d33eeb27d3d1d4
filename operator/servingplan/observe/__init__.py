"""EFFECT, read only. Turns one reading of the cluster into one ``Observation``. It decides nothing."""
