"""Models of the papers as printed, kept apart from the product: nothing in `servingplan` imports this package.

`python -m papers` re-runs the tables of the second paper (P2, Cheng and Nguyen 2026, arXiv 2604.07472) and writes its part
of `docs/papers.md`. The solver is reached through `servingplan.solve.milp` only.
"""
