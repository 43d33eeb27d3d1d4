"""The curve of a plan: what it serves and costs over a range of budgets, of demand, or of one pool's stock.

    sweep.py     what is varied, and the question at each value
    curve.py     the best plan at each value, each from its neighbour's
    frontier.py  the curve of a spec beside those of fleets on one pool alone, as figures
    words.py     what the curve says, in sentences

Pure: the search is handed in, and each point is handed out when it is found.
"""
