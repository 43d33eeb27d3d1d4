"""Bounds: how good a plan could be."""
