"""Answers planning questions. Pure: no clock but the deadline's, no randomness, no input or output.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. The parts from the top; each knows only those
below it:

* `sensitivity`  what one more unit of each limit would gain, and alternatives: answers to changed questions
* `entry`        `solve(question) -> answer`: it drops shapes if there is no time for all (`shortlist`), numbers the question,
                 lets a method find a plan, reports it (`answer`), and keeps the running fleet if no move is worth it (`stay`)
* `conflicts/`   whether a plan exists, which limits exclude each other, and the sentences that say so
* `methods/`     the table of methods: `anytime` finds a plan at once and betters it while there is time, `exact` proves every
                 level, `baselines/` holds the methods of the papers
* `search/`      how plans are found: a `partial_plan` under construction, `greedy` covers, `rounding`, the `lexicographic`
                 search level by level, the same `guarded` against losses, over a `kernel` of few shapes, and `gap_closing` by
                 model
* `bounds/`      how good a plan could be: by `price`, by the linear `relaxation`, by the `lagrangian` of each model; and the
                 `certificate` that states these bounds for a plan
* `plan/`        one frozen `plan`, the `judge` that makes every plan, `routing` for given copies, `losses`
* `problem/`     the question as mathematics: the numbered `instance`, `ordering`, `dominance`, `packing`, `placement` on nodes,
                 the `constraints` row by row, the `objective` level by level
* `solver/`      `program` (the only importer of PuLP and HiGHS), `clock`, `effort`, when to `stop`, `tolerance`
"""

from servingplan.solve.entry import solve
from servingplan.solve.methods import METHODS
from servingplan.solve.sensitivity import explain

__all__ = ["METHODS", "explain", "solve"]
