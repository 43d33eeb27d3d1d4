"""Pure: a planning question in, an answer out; no clock but the deadline's, no randomness, no input or output.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. From the top, each layer knowing only those
below it:

* `sensitivity`  what one more unit of each limit is worth, and alternatives: answers to changed questions
* `entry`        `solve(question) -> answer`: shorten the question if there is no time for it (`shortlist`), number it, let a
                 method find a plan, tell it (`answer`), keep what runs where that is not worth leaving (`stay`)
* `conflicts/`   whether there is a plan at all, which limits exclude each other, and that in words
* `methods/`     the table of methods: `anytime` a plan at once and a better one with time, `exact` every level to proof,
                 `baselines/` the methods of the papers
* `search/`      finding plans: a `partial_plan` under construction, `greedy` covers, `rounding`, the `lexicographic` search
                 level by level, the same `guarded` against losses, over a `kernel` of few shapes, and `gap_closing` by model
* `bounds/`      how good a plan could be: by `price`, the linear `relaxation`, the `lagrangian` of each model; and the
                 `certificate` that a plan gets from them
* `plan/`        one frozen `plan` and the `judge` that gives it out, `routing` for given copies, `losses`,
                 `placement` on nodes
* `problem/`     the question as mathematics: the numbered `instance`, `ordering`, `dominance`, `packing`, the `constraints` row
                 by row, the `objective` level by level
* `solver/`      `program` (the only importer of PuLP and HiGHS), `clock`, `effort`, when to `stop`, `tolerance`
"""

from servingplan.solve.entry import solve
from servingplan.solve.methods import METHODS
from servingplan.solve.sensitivity import explain

__all__ = ["METHODS", "explain", "solve"]
