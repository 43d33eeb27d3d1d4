"""``servingplan report`` and ``servingplan ui``: the page of a plan, made once or served for the plans of a cluster.

    pages.py   one page: decide, explain, curve, render, each within its time
    server.py  the plans of a cluster over HTTP, read-only; a changed plan can be tried where that is allowed

EFFECT.
"""
