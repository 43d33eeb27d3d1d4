"""What a turn gets to hear from the solver: answers, or that a search is under way, which goes on beside the turns."""

import pytest

from servingplan.answering import Answers, Beside
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import Outdated, Searching
from servingplan.model.answer import Answer
from servingplan.model.question import QuestionError
from tests.simulated.plans import plan
from tests.unit.solve.questions import worked_example

SPEC = PlanSpec.model_validate(plan())
EDITED = SPEC.model_copy(update={"solver": SPEC.solver.model_copy(update={"deadline_seconds": 7})})
QUESTION = worked_example()
CHANGED = QUESTION.model_copy(update={"budget_dollars_per_hour": 6.0})
PROVED = Answer.model_validate({"status": "Infeasible", "method": "exact", "stopped": "proved"})
CUT = PROVED.model_copy(update={"stopped": "deadline"})


class Solver:
    """Notes what it is asked. Searches beside the turns end when ``finish`` is called."""

    def __init__(self, answer=PROVED):
        self.answer = answer
        self.asked, self.jobs, self.unwanted = [], [], []

    def __call__(self, question, spec, at_most_seconds=None, *, first=False, unwanted=lambda: False):
        self.asked.append((question.budget_dollars_per_hour, at_most_seconds, first))
        if unwanted():
            raise Outdated("another question took its place")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def finish(self):
        for job in self.jobs:
            job()
        self.jobs.clear()


def answers_of(solver):
    return Answers(solver, Beside(solver.jobs.append, patience_seconds=0.0))


def ask(answers, question=QUESTION, spec=SPEC, **more):
    """As one turn does."""
    with answers.turn():
        return answers(question, spec, **more)


def searching(answers, *asked, **more):
    """Whether the search that is under way took the place of another one of the same spec."""
    with answers.turn(), pytest.raises(Searching) as told:
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


def test_what_a_search_raised_is_raised_once_and_the_next_turn_searches_again():
    solver = Solver(QuestionError("no classes"))
    answers = answers_of(solver)
    searching(answers)
    solver.finish()
    with pytest.raises(QuestionError, match="no classes"):
        ask(answers)
    searching(answers)
    solver.answer = PROVED
    solver.finish()
    assert ask(answers) is PROVED


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
    assert searching(answers, CHANGED, EDITED) is False


def test_a_search_in_haste_is_waited_for_and_ends_nothing():
    solver = Solver(CUT)
    answers = answers_of(solver)
    searching(answers)
    assert ask(answers, CHANGED, at_most_seconds=0.08) is CUT
    assert solver.asked == [(6.0, 0.08, False)]
    solver.finish()
    assert ask(answers) is CUT


def test_an_answer_that_the_clock_cut_short_lasts_until_the_turn_has_all_its_answers():
    """A turn may ask a second question. While that is being searched, the first must not be searched anew in every turn."""
    solver = Solver(CUT)
    answers = answers_of(solver)
    searching(answers)
    solver.finish()
    with answers.turn():
        answers(QUESTION, SPEC)
        with pytest.raises(Searching):
            answers(CHANGED, SPEC)
    solver.finish()
    with answers.turn():
        answers(QUESTION, SPEC)
        answers(CHANGED, SPEC)
    assert solver.asked == [(8.0, None, False), (6.0, None, False)]
    assert searching(answers) is False, "it is searched again by the next turn that asks"


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
