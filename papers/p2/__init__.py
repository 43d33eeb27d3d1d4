"""P2 (Cheng and Nguyen, arXiv 2604.07472 v1): its model, its heuristics, an evaluator, and one method of ours.

`instance` holds the data and a generator, `milp` the model as printed (eq. 5a-5k), `evaluate` an independent check,
`heuristics` GH and AGH with M1 to M3, `ours` a method with a certificate. The paper's experiments: `grid` sizes, `ablation`,
`rolling` horizon, `stress`, `budgets`, `sensitivity`. `tables` puts them on the page.
"""
