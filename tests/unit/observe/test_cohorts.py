"""What Kueue's cohorts leave a queue, compared with the greatest flow through the tree of members."""

import random

import numpy as np
import pytest
from scipy.optimize import linprog

from servingplan.observe.cohorts import Member, available


def greatest(queue, queues, cohorts):
    """The most that a queue can use in all if every other keeps what it uses, as a linear program; None if that is impossible.

    One variable for each member with a cohort: what flows down to it. At least minus its lending limit, at most its borrowing
    limit. The last variable is what the queue uses.
    """
    members = [*queues, *cohorts]
    place = {item.name: column for column, item in enumerate(members)}
    rows, limits = [], []
    for item in members:
        row = np.zeros(len(members) + 1)
        row[place[item.name]] = -1 if item.cohort is not None else 0
        for other in members:
            if other.cohort == item.name:
                row[place[other.name]] += 1
        if item.name == queue.name:
            row[-1] = 1
        rows.append(row)
        limits.append(item.nominal - (0 if item.name == queue.name else item.used))
    bounds = [(None if item.lending_limit is None else -item.lending_limit, item.borrowing_limit) for item in members]
    aim = np.zeros(len(members) + 1)
    aim[-1] = -1
    found = linprog(aim, A_ub=np.array(rows), b_ub=limits, bounds=[*bounds, (queue.used, None)])
    return round(-found.fun) if found.status == 0 else None


def drawn(seed):
    """Queues and cohorts in a tree of up to three levels, with random limits and use."""
    dice = random.Random(seed)

    def limit():
        return dice.choice([None, None, dice.randint(0, 6)])

    cohorts = [Member("root", None, dice.randint(0, 4))]
    for number in range(dice.randint(0, 3)):
        parent = dice.choice(cohorts).name
        cohorts.append(Member(f"cohort-{number}", parent, dice.randint(0, 4), limit(), limit()))
    queues = [
        Member(f"queue-{number}", dice.choice(cohorts).name, dice.randint(0, 8), limit(), limit(), dice.randint(0, 8))
        for number in range(dice.randint(1, 4))
    ]
    return queues, cohorts


def test_it_is_the_greatest_flow():
    compared = 0
    for seed in range(400):
        queues, cohorts = drawn(seed)
        most = greatest(queues[0], queues, cohorts)
        if most is not None:
            compared += 1
            left = available(queues[0], queues, cohorts)
            assert left is not None
            assert queues[0].used + left == most, seed
    assert compared > 100


@pytest.mark.parametrize(
    ("mine", "other", "cohorts", "left"),
    [
        (Member("a", None, 8, used=3), None, [], 5),
        (Member("a", "c", 8, used=3), None, [], 5),
        (Member("a", "c", 8, used=3), Member("b", "c", 4, used=1), [], 8),
        (Member("a", "c", 8, borrowing_limit=1, used=3), Member("b", "c", 4, used=1), [], 6),
        (Member("a", "c", 8, used=3), Member("b", "c", 4, lending_limit=1, used=1), [], 6),
        (Member("a", "c", 8, used=3), Member("b", "c", 4, used=10), [], -1),
        (Member("a", "c", 8, used=3), Member("b", "d", 4), [], 5),
        (Member("a", "c", 8, used=3), Member("b", "d", 4), [Member("c", "d"), Member("d", None, 2)], 11),
        (Member("a", "c", 8, used=3), None, [Member("c", "d"), Member("d", "c")], None),
    ],
)
def test_a_queue_has_what_others_leave(mine, other, cohorts, left):
    assert available(mine, [mine, *filter(None, [other])], cohorts) == left
