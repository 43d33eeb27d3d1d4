"""PURE. A decided fleet as Kubernetes objects and gateway documents: same plan, same bytes.

Nothing here reads a cluster or decides anything; nobody but this room builds a manifest.
"""
