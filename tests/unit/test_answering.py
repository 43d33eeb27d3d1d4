"""What a turn gets to hear from the solver: answers, or that a search is under way, which goes on beside the turns."""

import time

import pytest

from servingplan.answering import AGAIN_SECONDS, Answers, Beside
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import Outdated, Searching
from servingplan.model.answer import Answer
from servingplan.model.question import QuestionError
from tests.simulated.plans import model, plan
from tests.unit.solve.questions import worked_example

SPEC = PlanSpec.model_validate(plan())
AT_OTHER_RATES = PlanSpec.model_validate(plan(model(rate="11")))
QUESTION = worked_example()
CHANGED = QUESTION.model_copy(update={"budget_dollars_per_hour": 6.0})
PROVED = Answer.model_validate({"status": "Infeasible", "method": "exact", "stopped": "proved"})
CUT = PROVED.model_copy(update={"stopped": "deadline"})
SHORT = CUT.model_copy(update={"status": "Feasible"})


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self):
        return self.now


class Solver:
    """Notes what it is asked. Searches beside the turns end when ``finish`` is called."""

    def __init__(self, answer=PROVED):
        self.answer = answer
        self.asked, self.jobs, self.outdated = [], [], []

    def __call__(self, question, spec, at_most_seconds=None, *, first=False, unwanted=lambda: False):
        self.asked.append((question.budget_dollars_per_hour, at_most_seconds, first))
        self.outdated.append(unwanted())
        if unwanted():
            raise Outdated("another question took its place")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def finish(self):
        for job in self.jobs:
            job()
        self.jobs.clear()


def answers_of(solver, clock=time.monotonic):
    return Answers(solver, Beside(solver.jobs.append, patience_seconds=0.0), clock=clock)


def ask(answers, question=QUESTION, spec=SPEC, **more):
    """As one turn does."""
    return answers(question, spec, **more)


def searching(answers, *asked, **more):
    """Whether the search that is under way took the place of another one of the same spec."""
    with pytest.raises(Searching) as told:
        answers(*(asked or (QUESTION, SPEC)), **more)
    return told.value.overtaken


def test_a_turn_does_not_wait_for_a_search_and_a_later_one_has_its_answer():
    solver = Solver()
    answers = answers_of(solver)
    assert searching(answers, QUESTION, SPEC, first=True) is False
    assert searching(answers) is False, "the same search goes on"
    solver.finish()
    assert ask(answers) is PROVED
    assert solver.asked == [(8.0, None, True)]


@pytest.mark.parametrize("nothing", [QuestionError("no classes"), CUT])
def test_what_brought_nothing_is_told_until_a_later_search_has_ended(nothing):
    solver, clock = Solver(nothing), Clock()
    answers = answers_of(solver, clock)

    def told():
        try:
            return ask(answers, first=True)
        except QuestionError as error:
            return error

    searching(answers, first=True)
    solver.finish()
    assert told() is nothing
    clock.now += AGAIN_SECONDS - 1
    assert told() is nothing
    assert not solver.jobs, "it is too soon"
    clock.now += 1
    assert told() is nothing
    assert len(solver.jobs) == 1
    solver.answer = PROVED
    solver.finish()
    assert told() is PROVED
    assert solver.asked == [(8.0, None, True), (8.0, None, False)], "the second search is not a first one"


def test_a_search_that_could_not_begin_begins_in_the_next_turn():
    solver = Solver()
    full = True

    def begin(job):
        if full:
            raise RuntimeError("can't start new thread")
        solver.jobs.append(job)

    answers = Answers(solver, Beside(begin, patience_seconds=0.0))
    with pytest.raises(RuntimeError):
        ask(answers)
    full = False
    searching(answers)
    solver.finish()
    assert ask(answers) is PROVED


def test_nothing_is_searched_once_the_turns_have_stopped():
    """The thread of a turn may begin a search after the event loop has stopped its plan."""
    solver = Solver()
    answers = answers_of(solver)
    searching(answers)
    answers.stop()
    searching(answers, CHANGED, SPEC)
    solver.finish()
    assert solver.outdated == [True, True]


def test_another_question_takes_the_place_of_a_search_that_is_under_way():
    solver = Solver()
    answers = answers_of(solver)
    searching(answers)
    first = solver.jobs.pop()
    assert searching(answers, CHANGED, SPEC) is True
    first()
    solver.finish()
    assert solver.asked[0] == (8.0, None, False)
    assert ask(answers, CHANGED) is PROVED
    assert searching(answers) is False, "what was asked first was not answered"


def test_an_edit_does_not_count_as_a_change_of_the_cluster():
    answers = answers_of(Solver())
    searching(answers)
    answers.generation += 1
    assert searching(answers, CHANGED, SPEC) is False


def test_measured_rates_that_change_count_as_a_change_of_the_cluster():
    answers = answers_of(Solver())
    searching(answers)
    assert searching(answers, CHANGED, AT_OTHER_RATES) is True


def test_edits_count_once_they_have_kept_the_plan_waiting_for_longer_than_a_search_takes():
    clock = Clock()
    answers = answers_of(Solver(), clock)
    searching(answers)
    for _ in range(2):
        clock.now += 0.5 * SPEC.solver.deadline_seconds + 0.1
        answers.generation += 1
        last = searching(answers, QUESTION.model_copy(update={"budget_dollars_per_hour": clock.now}), SPEC)
    assert last is True


def test_a_search_in_haste_is_waited_for_and_ends_nothing():
    solver = Solver(CUT)
    answers = answers_of(solver)
    searching(answers)
    assert ask(answers, CHANGED, at_most_seconds=0.08) is CUT
    assert solver.asked == [(6.0, 0.08, False)]
    solver.finish()
    assert ask(answers) is CUT


def test_an_answer_that_the_clock_cut_short_is_kept_too():
    """A turn may ask a second question, and a plan that is only shown is asked for in every turn."""
    solver = Solver(SHORT)
    answers = answers_of(solver)
    searching(answers)
    solver.finish()
    for _ in range(2):
        assert ask(answers) is SHORT
    assert solver.asked == [(8.0, None, False)]


def test_a_proved_answer_is_kept_and_one_found_in_haste_too():
    solver = Solver(PROVED)
    answers = answers_of(solver)
    assert ask(answers, at_most_seconds=0.08) is PROVED
    assert ask(answers) is PROVED
    assert solver.asked == [(8.0, 0.08, False)]


def test_without_a_place_beside_the_turns_every_search_is_waited_for():
    solver = Solver(CUT)
    answers = Answers(solver)
    assert ask(answers) is CUT
    assert ask(answers) is CUT
    assert len(solver.asked) == 2
