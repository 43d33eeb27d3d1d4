"""Models of the papers as printed, kept apart from the product: nothing in `servingplan` imports this package.

`python -m papers` re-runs the tables of both papers and writes `docs/papers.md`: P1 is Jiang et al. 2025 (arXiv 2502.00722), P2
Cheng and Nguyen 2026 (arXiv 2604.07472). P1's problem is the planner's own; P2 has a model of its own, which reaches the
solver through `servingplan.solve.milp` only.
"""
