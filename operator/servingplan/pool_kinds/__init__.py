"""Kinds of objects whose size is a number of nodes: one module for each provider, all behind ``protocol.PoolKind``.

Fixed nodes have no object, and so no kind: they are what their selector finds.
"""
