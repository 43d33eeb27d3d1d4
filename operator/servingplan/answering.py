"""The solver as the turns of one plan ask it. No turn waits for a long search, and the same question is answered once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Search, Solve
from servingplan.errors import Outdated, Searching
from servingplan.model.answer import Answer
from servingplan.model.question import Question, canonical_json

PATIENCE_SECONDS = 0.3
"""How long a turn waits for the answer. Most small questions are answered by then, and weights may wait so long."""
MOST_KNOWN = 4
"""Answers that are kept: a turn asks up to three questions."""

Key = tuple[str, str]
"""The question, and the solver's settings."""


@dataclass(frozen=True)
class Beside:
    """Where searches run that turns do not wait for."""

    begin: Callable[[Callable[[], None]], None]
    """Runs a search, and wakes the plan when it has ended."""
    patience_seconds: float = PATIENCE_SECONDS


class Answers:
    """Answers the questions of one plan. It is asked by one turn at a time."""

    def __init__(self, solve: Search, beside: Beside | None = None) -> None:
        """Without ``beside`` every search is waited for, as on the command line."""
        self._solve = solve
        self._beside = beside
        self._known: dict[Key, Answer] = {}
        self._search: _Search | None = None
        self._searching = False

    def __call__(
        self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        """The answer to the question. Raises ``Searching`` while there is none, and whatever the search raises.

        A search in haste (``at_most_seconds``) is waited for. Another search goes on beside the turns until its answer is
        fetched or another question takes its place.
        """
        key = (canonical_json(question), spec.solver.model_dump_json())
        if key in self._known:
            return self._known[key]
        if self._beside is None or at_most_seconds is not None:
            answer = self._solve(question, spec, at_most_seconds, first=first)
            # A search in haste that the clock cut short would be an answer of less quality to those who have time.
            return answer if at_most_seconds is not None and answer.stopped == "deadline" else self._keep(key, answer)
        overtaken = False
        if self._search is None or self._search.key != key:
            overtaken = self._search is not None and self._search.spec == spec
            self.stop()
            self._search = _Search(key, spec)
            self._beside.begin(self._search.job(self._solve, question, first=first))
        if not self._search.ended.wait(self._beside.patience_seconds):
            self._searching = True
            raise Searching(overtaken)
        search, self._search = self._search, None
        return self._keep(key, search.result())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While one turn asks. Once it has all its answers, those that the clock cut short are searched again when asked."""
        self._searching = False
        yield
        if not self._searching:
            self._known = {key: answer for key, answer in self._known.items() if answer.stopped != "deadline"}

    def stop(self) -> None:
        """End the search that is under way."""
        if self._search is not None:
            self._search.unwanted.set()
            self._search = None

    def _keep(self, key: Key, answer: Answer) -> Answer:
        while len(self._known) >= MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[key] = answer
        return answer


class _Search:
    """One search beside the turns."""

    def __init__(self, key: Key, spec: PlanSpec) -> None:
        self.key = key
        self.spec = spec
        self.unwanted = threading.Event()
        self.ended = threading.Event()
        self.begun = time.monotonic()
        self._found: Answer | Exception = Outdated("the search has not ended")

    def job(self, solve: Search, question: Question, *, first: bool) -> Callable[[], None]:
        """What finds the answer."""

        def work() -> None:
            try:
                self._found = solve(question, self.spec, first=first, unwanted=self.unwanted.is_set)
            except Exception as error:
                self._found = error
            finally:
                self.ended.set()

        return work

    def result(self) -> Answer:
        """The answer. Raises what the search raised."""
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def in_a_thread(wake: Callable[[], None]) -> Beside:
    """Runs each search in a thread of its own, and calls ``wake`` when it has ended."""

    def begin(job: Callable[[], None]) -> None:
        def work() -> None:
            job()
            wake()

        threading.Thread(target=work, name="search", daemon=True).start()

    return Beside(begin)


def solve_with(default_deadline_seconds: float | None = None) -> Solve:
    """The project's solver for ``decide``, in this process. It is imported late, since it loads slowly."""

    def answer(
        question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        from servingplan.solve import solve

        del first  # nobody else asks
        deadline = default_deadline_seconds or float(spec.solver.deadline_seconds)
        deadline = min(deadline, at_most_seconds or deadline)
        method = "anytime" if spec.solver.method == "Auto" else spec.solver.method
        return solve(question, method=method, deadline_seconds=deadline)

    return answer
