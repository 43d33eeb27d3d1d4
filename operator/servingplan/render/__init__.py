"""PURE. Renders a decided fleet as Kubernetes objects: what makes its pods. The same plan gives the same bytes.

It reads no cluster and decides nothing. Objects of routing are rendered in ``routing/``.
"""
