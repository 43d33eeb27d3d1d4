"""Searches in processes of their own: what becomes of one that crashes, hangs, is not wanted any more, or must wait."""

import threading

import pytest

from e2e.support.waiting import wait_for
from servingplan import solvers as module
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import Outdated
from servingplan.model.question import QuestionError
from servingplan.search_process import LEAST_BYTES, OPERATOR_BYTES, SolverCrashed, memory_of_a_search
from servingplan.solve import solve
from servingplan.solvers import USUAL_BYTES, Lane, Solvers, shared_processes
from tests.simulated.plans import plan
from tests.unit.solve.questions import worked_example

SPEC = PlanSpec.model_validate(plan())


STUB = """
import os, signal, sys, time
from multiprocessing.connection import Connection
from servingplan.model.question import QuestionError
connection = Connection(int(sys.argv[1]))
while True:
    task = connection.recv()
    kind, _, what = task.method.partition(":")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit":
        os._exit(3)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "raise":
        connection.send(QuestionError(what))
    else:
        connection.send((kind, os.getpid(), task.deadline_seconds))
"""
"""A process that does what the method says, in place of the solver."""


def spec(method, seconds=10):
    return SPEC.model_copy(
        update={"solver": SPEC.solver.model_copy(update={"method": method, "deadline_seconds": seconds})}
    )


@pytest.fixture
def solvers():
    made = Solvers(shared=1, program=("-c", STUB), most_seconds=60)
    yield made
    made.stop()


def ask(solvers, method, *, seconds=10, **more):
    return solvers.of_plan("llm")(None, spec(method, seconds), **more)


@pytest.mark.slow
def test_a_process_answers_as_the_solver_does():
    made = Solvers(shared=1)
    try:
        question = worked_example()
        found = made.of_plan("llm")(question, SPEC)
        there = solve(question, method="anytime", deadline_seconds=10)
        assert found.model_dump(exclude={"seconds"}) == there.model_dump(exclude={"seconds"})
    finally:
        made.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "words"), [("die", "SIGSEGV"), ("exit", "exit code 3")])
def test_a_search_that_crashes_is_an_error_and_the_next_one_is_answered(solvers, method, words):
    with pytest.raises(SolverCrashed, match=words):
        ask(solvers, method)
    assert ask(solvers, "fine")[0] == "fine"


@pytest.mark.slow
def test_what_a_solver_raises_comes_as_it_is(solvers):
    with pytest.raises(QuestionError, match="no classes"):
        ask(solvers, "raise:no classes")


@pytest.mark.slow
def test_a_search_that_nobody_wants_any_more_is_ended_and_the_next_one_is_answered(solvers):
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(Outdated):
        ask(solvers, "hang", unwanted=unwanted.is_set)
    assert ask(solvers, "fine")[0] == "fine"


@pytest.mark.slow
def test_a_search_that_does_not_end_is_ended(solvers, monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    with pytest.raises(SolverCrashed, match="did not end within"):
        ask(solvers, "hang", seconds=1)
    assert ask(solvers, "fine")[0] == "fine"


@pytest.mark.slow
@pytest.mark.parametrize("haste", [{"at_most_seconds": 0.08}, {"first": True}], ids=["after a loss", "a new plan"])
def test_who_is_in_a_hurry_does_not_wait_for_the_searches_of_others(solvers, haste):
    unwanted = threading.Event()

    def hang():
        with pytest.raises(Outdated):
            ask(solvers, "hang", unwanted=unwanted.is_set)

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    try:
        assert ask(solvers, "fine", **haste)[0] == "fine"
        assert ask(solvers, "fine", at_most_seconds=0.08)[2] == 0.08
    finally:
        unwanted.set()
        thread.join(60)


@pytest.mark.slow
def test_an_installation_bounds_what_a_plan_may_ask_for(solvers):
    assert ask(solvers, "fine", seconds=3600)[2] == 60


GREEDY = """
import sys
from servingplan import search_process
search_process.memory_of_the_container = lambda: 0
class Greedy:
    deadline_seconds = 10.0
    def run(self):
        return len(bytearray(2 * search_process.LEAST_BYTES))
search_process.Searched.run = Greedy.run
search_process.work(int(sys.argv[1]), int(sys.argv[2]))
"""
"""The process of a search that takes more memory than it may."""


@pytest.mark.slow
def test_a_search_that_needs_too_much_memory_is_an_error_and_its_process_answers_on():
    made = Solvers(shared=1, program=("-c", GREEDY))
    try:
        for _ in range(2):
            with pytest.raises(MemoryError):
                made.of_plan("llm")(worked_example(), SPEC)
    finally:
        made.stop()


HOARDING = """
import sys
from servingplan import search_process
search_process.memory_of_the_container = lambda: 0
kept = []
def hoard(self):
    kept.append(bytearray(search_process.LEAST_BYTES * 6 // 10))
    return len(kept)
search_process.Searched.run = hoard
search_process.work(int(sys.argv[1]), int(sys.argv[2]))
"""
"""The process of searches that each leave memory behind."""


@pytest.mark.slow
def test_a_process_whose_memory_is_spent_is_followed_by_another_one():
    made = Solvers(shared=1, program=("-c", HOARDING))
    try:
        ask_it = made.of_plan("llm")
        assert ask_it(worked_example(), SPEC) == 1
        with pytest.raises(MemoryError):
            ask_it(worked_example(), SPEC)
        assert ask_it(worked_example(), SPEC) == 1
    finally:
        made.stop()


LOADED = """
import sys
from servingplan import search_process
def loaded(self):
    return sorted(name for name in sys.modules if name.startswith("servingplan."))
search_process.Searched.run = loaded
search_process.work(int(sys.argv[1]), int(sys.argv[2]))
"""
"""The process of a search that tells which modules it has loaded."""


@pytest.mark.slow
def test_the_process_of_a_search_loads_the_solver_and_not_the_operator():
    made = Solvers(shared=1, program=("-c", LOADED))
    try:
        loaded = made.of_plan("llm")(worked_example(), SPEC)
    finally:
        made.stop()
    rooms = {name.split(".")[1] for name in loaded}
    assert "solve" in rooms
    assert rooms <= {"errors", "model", "search_process", "solve"}


COUNTING = """
import os, sys
from servingplan import search_process
def threads(self):
    import highspy, numpy
    return len(os.listdir("/proc/self/task"))
search_process.Searched.run = threads
search_process.work(int(sys.argv[1]), int(sys.argv[2]))
"""
"""The process of a search that tells its number of threads."""


@pytest.mark.slow
def test_a_search_has_no_thread_for_each_core_of_its_node():
    """The linear algebra behind the solver takes 40 MB of the search's memory for each of its threads."""
    made = Solvers(shared=1, program=("-c", COUNTING))
    try:
        assert made.of_plan("llm")(worked_example(), SPEC) == 2, "itself, and the one that ends it with the operator"
    finally:
        made.stop()


def test_what_a_search_may_take_leaves_the_operator_its_memory():
    assert memory_of_a_search(None) is None
    assert memory_of_a_search(2 * 2**30) == (2 * 2**30 - OPERATOR_BYTES) // 2
    assert memory_of_a_search(2**29) == LEAST_BYTES


def test_there_are_no_more_processes_than_the_container_has_cores_and_memory_for():
    assert shared_processes(cores=8, container_bytes=None) == 7
    assert shared_processes(cores=4, container_bytes=2 * 2**30) == 3
    assert shared_processes(cores=1, container_bytes=2 * 2**30) == 1
    many = shared_processes(cores=128, container_bytes=2 * 2**30)
    assert OPERATOR_BYTES + (many + 3) * USUAL_BYTES <= 2 * 2**30
    assert many > 3
    assert shared_processes(cores=128, container_bytes=2**29) == 1


class Slow:
    """A worker that answers when it is let."""

    def __init__(self):
        self.order, self.go = [], threading.Semaphore(0)

    def ask(self, task, unwanted):
        self.go.acquire(timeout=60)
        self.order.append(task)
        return task


def test_namespaces_take_turns_whoever_asks_most():
    worker = Slow()
    lane, threads = Lane([worker]), []

    def asking():
        with lane._turn:
            return sum(map(len, lane._waiting.values())) + (0 if lane._free else 1)

    for namespace, task in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")]:
        threads.append(threading.Thread(target=lane.ask, args=(namespace, task, lambda: False), daemon=True))
        threads[-1].start()
        wait_for(f"{task} asks", lambda: asking() == len(threads), seconds=60)
    for _ in threads:
        worker.go.release()
    for thread in threads:
        thread.join(60)
    assert worker.order == ["a1", "a2", "b1", "c1", "a3"]
