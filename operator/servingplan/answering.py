"""The solver as the turns of one plan ask it. No turn waits for a long search, and the same question is answered once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
AGAIN_SECONDS = 60.0
"""How long after a search that brought nothing the same question is searched again: the machine may have been busy."""

Key = tuple[str, str]
"""The question, and the solver's settings."""


@dataclass(frozen=True)
class Beside:
    """Where searches run that turns do not wait for."""

    begin: Callable[[Callable[[], None]], None]
    """Runs a search, and wakes the plan when it has ended."""
    patience_seconds: float = PATIENCE_SECONDS


class Answers:
    """Answers the questions of one plan. It is asked by one turn at a time; ``stop`` may come from another thread."""

    def __init__(
        self, solve: Search, beside: Beside | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without ``beside`` every search is waited for, as on the command line."""
        self._solve = solve
        self._beside = beside
        self._clock = clock
        self._known: dict[Key, _Known] = {}
        self._search: _Search | None = None
        self._stopped = False
        self.generation = 0
        """The generation of the plan whose turn asks."""

    def __call__(
        self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        """The answer to the question. Raises ``Searching`` while there is none, and whatever the search raised.

        A search in haste (``at_most_seconds``) is waited for. Another search goes on beside the turns until its answer is
        fetched or another question takes its place. A search that neither found a plan nor proved that there is none is
        repeated after a while; its result stays until the repetition has ended.
        """
        key = (canonical_json(question), spec.solver.model_dump_json())
        known = self._known.get(key)
        if known is not None and known.lasts:
            return known.answer()
        if self._beside is None or at_most_seconds is not None:
            answer = self._solve(question, spec, at_most_seconds, first=first)
            # A search in haste that the clock cut short would be an answer of less quality to those who have time.
            return answer if at_most_seconds is not None and answer.stopped == "deadline" else self._keep(key, answer)
        if known is not None and self._clock() - known.at < AGAIN_SECONDS:
            return known.answer()
        search, overtaken = self._search, False
        if search is None or search.key != key:
            overtaken = search is not None and self._is_overtaken(search, spec)
            search = self._begin(key, question, spec, first=first and known is None)
        if not search.ended.wait(self._beside.patience_seconds if known is None else 0.0):
            if known is not None:
                return known.answer()
            raise Searching(overtaken)
        self._search = None
        return self._keep(key, search.found)

    def stop(self) -> None:
        """End the search that is under way. None is wanted afterwards."""
        self._stopped = True
        self._search = None

    def _is_overtaken(self, search: _Search, spec: PlanSpec) -> bool:
        """Whether an answer is needed in haste when another question takes the place of a search.

        It is if the spec is the same, since then the cluster or the demand changed. It is also if edits have kept the plan
        waiting for longer than one search takes.
        """
        waited = self._clock() - search.since
        return search.generation == self.generation or (
            not search.ended.is_set() and waited > float(spec.solver.deadline_seconds)
        )

    def _begin(self, key: Key, question: Question, spec: PlanSpec, *, first: bool) -> _Search:
        assert self._beside is not None
        before = self._search
        since = self._clock() if before is None or before.ended.is_set() else before.since
        search = self._search = _Search(key, self.generation, since)

        def work() -> None:
            try:
                search.found = self._solve(
                    question, spec, first=first, unwanted=lambda: self._stopped or self._search is not search
                )
            except Exception as error:
                search.found = error
            finally:
                search.ended.set()

        try:
            self._beside.begin(work)
        except Exception:
            self._search = None  # nothing would ever end it
            raise
        return search

    def _keep(self, key: Key, found: Answer | Exception) -> Answer:
        self._known.pop(key, None)
        while len(self._known) >= MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        known = self._known[key] = _Known(found, self._clock())
        return known.answer()


@dataclass(frozen=True)
class _Known:
    """How a search ended, and when by the clock, in seconds."""

    found: Answer | Exception
    at: float

    @property
    def lasts(self) -> bool:
        """Whether another search for the same question is needless."""
        return isinstance(self.found, Answer) and (self.found.status != "Infeasible" or self.found.stopped == "proved")

    def answer(self) -> Answer:
        """The answer. Raises what the search raised."""
        if isinstance(self.found, Exception):
            raise self.found.with_traceback(None)  # or it would grow with every turn
        return self.found


class _Search:
    """One search beside the turns."""

    def __init__(self, key: Key, generation: int, since: float) -> None:
        self.key = key
        self.generation = generation
        self.since = since
        """When the plan began to wait: searches whose place this one took had not ended."""
        self.ended = threading.Event()
        self.found: Answer | Exception = Outdated("the search has not ended")


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
