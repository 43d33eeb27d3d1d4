"""PURE. Renders a decided fleet as Kubernetes objects and gateway documents. The same plan gives the same bytes.

It reads no cluster and decides nothing. No other package builds a manifest.
"""
