"""Says in words why there is no plan: one line per limit of the conflict, each with its smallest sufficient change.

The numbers come from `conflict`.
"""

from servingplan.model.answer import Clash, Ease
from servingplan.model.question import Question
from servingplan.solve.conflicts.limits import kind_of

MOST_LINES = 12
MOST_NAMES = 6
"""The most lines and names that a person gets to read of a large conflict; the answer's data name all limits."""


def in_words(question: Question, conflict: Clash) -> tuple[str, ...]:
    """One line per limit: its name and value, the limits with which it excludes a plan, and how to change it."""
    served = {name for shape in question.shapes for name in shape.requests_per_second}
    told = (
        sorted(conflict.limits, key=lambda ease: ease.needed is None)
        if len(conflict.limits) > MOST_LINES
        else conflict.limits
    )
    lines = [_line(question, conflict, ease, served) for ease in told[:MOST_LINES]]
    left = len(conflict.limits) - len(lines)
    return (
        (*lines, f"{left} more limits may be part of the conflict; the search for fewer was cut short")
        if left
        else tuple(lines)
    )


def _line(question: Question, conflict: Clash, ease: Ease, served: set[str]) -> str:
    kind, item = kind_of(ease.limit)
    names = [other.limit for other in conflict.limits if other is not ease]
    others = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    what = "no full service" if conflict.goal == "full service" else "no plan"
    text = f"{ease.limit}: {kind.field} {ease.now:.10g} leaves {what}" + (f" together with {others}" if others else "")
    if kind.name == "class" and item not in served:
        return f"{text}: no shape serves class {item!r}; add a shape with a rate for it"
    if ease.needed is None:
        return f"{text}; " + ("no change of it alone helps" if ease.known else "no change of it that helps is known")
    if kind.name == "survive" and ease.needed > max(cls.priority for cls in question.classes):
        return f"{text}; drop the rule"
    if kind.name == "class" and ease.needed == 0:
        return f"{text}; leave the class out"
    return f"{text}; {kind.advice} {ease.needed:.10g}" + ("" if ease.known else ", or less")
