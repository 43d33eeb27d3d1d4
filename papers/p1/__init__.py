"""P1 (Jiang et al., ICML 2025, arXiv 2502.00722): its grid of instances, a second formulation of its problem, its tables.

`instance` holds the printed data and makes questions of them, `second` solves a question by a formulation that shares no code
with the planner, `direct` is the form of figure 9 with the makespan as the variable, `tables` runs all of them.
"""
