"""Proposes request classes from a log: reads it, chooses boundaries that a gateway can match, says what fewer classes cost.

It is pure: the input is a log as text, the output is classes in the form of a plan. `docs/classes.md` explains the figures.
"""
