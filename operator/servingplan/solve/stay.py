"""Decides whether a better plan is worth the moves to it.

`entry` asks this if the question has a running fleet that is still allowed and a `change` rule, and the method starts from the
running fleet.
"""

from servingplan.model.answer import Answer
from servingplan.model.question import Change
from servingplan.solve.solver.tolerance import EQUAL, TOLD


def reason_to_stay(change: Change, *, best: Answer, stay: Answer) -> str | None:
    """The reason to keep the running plan `stay` although `best` is better; None if the move is worth it.

    Under MinimizeCost, a service level that gains more than the fraction `min_gain` is always worth the move. Otherwise the
    relative gain (of dollars; under MaximizeService of the scale, or of dollars if the scales are equal) must exceed
    `min_gain`, and the gain in dollars/hour must pay the start-up cost back within `life_seconds`. Under MaximizeService, an
    hour's gain is worth the relative gain times the hourly cost of the running plan.
    """
    if best.replicas == stay.replicas:
        return None
    assert best.dollars_per_hour is not None
    assert stay.dollars_per_hour is not None
    if best.scale is not None and stay.scale is not None:
        gain = best.scale / stay.scale - 1.0 if stay.scale > 0 else float("inf")
        dollars_per_hour = gain * stay.dollars_per_hour
        if gain <= EQUAL:  # equal service: the plan is only cheaper
            dollars_per_hour = stay.dollars_per_hour - best.dollars_per_hour
            gain = dollars_per_hour / stay.dollars_per_hour if stay.dollars_per_hour else 0.0
    else:
        before = {level.goal: level.value for level in stay.levels}
        for level in best.levels:
            gained = level.value - before.get(level.goal, level.value)
            if level.goal.is_promise and gained > max(change.min_gain, TOLD) * level.value:
                return None
        dollars_per_hour = stay.dollars_per_hour - best.dollars_per_hour
        gain = dollars_per_hour / stay.dollars_per_hour if stay.dollars_per_hour else 0.0
    if gain <= change.min_gain:
        return (
            f"kept the running plan: the best plan found gains {gain:.2%}, which does not exceed change.min_gain "
            f"{change.min_gain:.2%}"
        )
    startup = best.startup_dollars or 0.0
    if startup and change.life_seconds is not None and dollars_per_hour * change.life_seconds / 3600.0 <= startup:
        return (
            f"kept the running plan: the best plan found gains {dollars_per_hour:.4g} $/h, which does not pay back its "
            f"start-up cost of {startup:.4g} $ within change.life_seconds {change.life_seconds:g}"
        )
    return None
