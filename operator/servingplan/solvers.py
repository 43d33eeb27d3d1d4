"""EFFECT. Solves in processes of their own. So no turn waits for another plan's search, and a search that crashes, needs too
much memory or does not end costs one answer, not the operator.

Two warm processes are kept for answers that somebody waits for: one after a loss, one for new and edited plans. Improvements
share the rest, in turns by namespace; these processes start with the first improvement. Each explanation has a process that
ends with it. A search that is not wanted any more is ended together with its process. All processes have a lower scheduling
priority than the operator. Their memory is limited, since the kubelet has all processes of a container killed together
(``memory.oom.group``) once the container reaches its own limit.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from servingplan.api.status_v1alpha1 import ExplanationStatus
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Search, never
from servingplan.errors import Outdated
from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.model.world import Observation
from servingplan.search_process import OPERATOR_BYTES, Explained, Searched, SolverCrashed, Task, memory_of_the_container

MOST_SECONDS = 600.0
"""The upper bound of every plan's solver deadline; an installation may set another."""
GRACE_SECONDS = 30.0
"""How long a search may run beyond its deadline and ``START_SECONDS`` before its process is ended."""
START_SECONDS = 120.0
"""How long a process may take to load the solver."""
LOOK_SECONDS = 0.1
"""The time between two checks whether a search is still wanted."""
NICE_HURRIED, NICE_SHARED = 1, 10
USUAL_BYTES = 128 * 2**20
"""What the process of a usual search takes: 60 MB once the solver is loaded, the rest for its question."""


PROGRAM = ("-c", "import sys; from servingplan.search_process import work; work(int(sys.argv[1]), int(sys.argv[2]))")
"""The interpreter's arguments for a search process, which also gets its socket's descriptor and its niceness."""


ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's linear algebra, which the solver loads and does not use, would start a thread for each core of the node and take
40 MB for each: on 20 cores all that the search may have."""


class Worker:
    """One process that answers one question at a time. It is restarted when it ends."""

    def __init__(self, nice: int, program: tuple[str, ...] = PROGRAM, *, keep: bool = True) -> None:
        """``keep``: whether the process waits for the next task. Tests replace the solver by another ``program``."""
        self._nice = nice
        self._keep = keep
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start a process, which loads the solver before the first question."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, *self._program, str(theirs.fileno()), str(self._nice)]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=os.environ | ENVIRONMENT
            )
        self._connection = Connection(ours.detach())

    def stop(self) -> None:
        """Kill the process."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()

    def ask[T](self, task: Task[T], unwanted: Callable[[], bool]) -> T:
        """The result of a task. Raises ``SolverCrashed``, ``Outdated``, or the task's own error."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self.start()
        connection = self._connection
        assert connection is not None
        end = time.monotonic() + task.deadline_seconds + GRACE_SECONDS + START_SECONDS
        try:
            connection.send(task)
            while not connection.poll(LOOK_SECONDS):
                if unwanted():
                    self.stop()
                    raise Outdated("another question took its place")
                if time.monotonic() > end:
                    self.stop()
                    raise SolverCrashed(f"the search did not end within {task.deadline_seconds:g} s and was ended")
            found: T | Exception = connection.recv()
        except (EOFError, OSError) as error:
            told = self._last_words()
            self.stop()
            raise SolverCrashed(f"the process of the search ended: {told}") from error
        if not self._keep or isinstance(found, MemoryError):  # what it still holds may be all that it may have
            self.stop()
        if isinstance(found, Exception):
            raise found
        return found

    def _last_words(self) -> str:
        process = self._process
        if process is None:
            return "it was stopped"
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        if code < 0:
            name = signal.Signals(-code).name
            return f"signal {name}" + (", as happens if memory is short" if name == "SIGKILL" else "")
        return f"exit code {code}"


class Lane:
    """Workers and a queue for them: in turns by namespace, in order of arrival within each."""

    def __init__(self, workers: list[Worker]) -> None:
        self._free = workers
        self._all = list(workers)
        self._turn = threading.Condition()
        self._waiting: OrderedDict[str, deque[object]] = OrderedDict()

    def start(self) -> None:
        """Start all processes."""
        for worker in self._all:
            worker.start()

    def stop(self) -> None:
        """End all processes."""
        for worker in self._all:
            worker.stop()

    def ask[T](self, namespace: str, task: Task[T], unwanted: Callable[[], bool]) -> T:
        """Wait for a worker, then as ``Worker.ask``."""
        worker = self._take(namespace, unwanted)
        try:
            return worker.ask(task, unwanted)
        finally:
            with self._turn:
                self._free.append(worker)
                self._turn.notify_all()

    def _take(self, namespace: str, unwanted: Callable[[], bool]) -> Worker:
        ticket = object()
        with self._turn:
            self._waiting.setdefault(namespace, deque()).append(ticket)
            try:
                while not (self._free and self._is_next(ticket)):
                    self._turn.wait(LOOK_SECONDS)
                    if unwanted():
                        raise Outdated("another question took its place")
                self._waiting.move_to_end(namespace)
                return self._free.pop()
            finally:
                queue = self._waiting[namespace]
                queue.remove(ticket)
                if not queue:
                    del self._waiting[namespace]
                self._turn.notify_all()

    def _is_next(self, ticket: object) -> bool:
        return next(iter(self._waiting.values()))[0] is ticket


class Solvers:
    """Holds all solver processes of one operator."""

    def __init__(
        self,
        *,
        shared: int | None = None,
        most_seconds: float = MOST_SECONDS,
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        """``shared``: the number of processes for searches that are not urgent. None: as ``shared_processes``."""
        count = shared_processes(_cores(), memory_of_the_container()) if shared is None else shared
        self._most_seconds = most_seconds
        self._hurried = Lane([Worker(NICE_HURRIED, program)])
        self._first = Lane([Worker(NICE_HURRIED, program)])
        self._shared = Lane([Worker(NICE_SHARED, program) for _ in range(count)])
        self._explaining = Lane([Worker(NICE_SHARED, program, keep=False)])

    def start(self) -> None:
        """Start the processes that somebody waits for, so that the solver is loaded before the first question."""
        self._hurried.start()
        self._first.start()

    def stop(self) -> None:
        """End all processes."""
        self._hurried.stop()
        self._first.stop()
        self._shared.stop()
        self._explaining.stop()

    def of_plan(self, namespace: str) -> Search:
        """The solver for the turns of one plan."""

        def answer(
            question: Question,
            spec: PlanSpec,
            at_most_seconds: float | None = None,
            *,
            first: bool = False,
            unwanted: Callable[[], bool] = never,
        ) -> Answer:
            deadline = min(
                float(spec.solver.deadline_seconds), self._most_seconds, at_most_seconds or self._most_seconds
            )
            method = "anytime" if spec.solver.method == "Auto" else spec.solver.method
            lane = self._hurried if at_most_seconds is not None else self._first if first else self._shared
            return lane.ask(namespace, Searched(question, method, deadline), unwanted)

        return answer

    def explain(
        self, world: Observation, asked: str, deadline_seconds: float, unwanted: Callable[[], bool] = never
    ) -> ExplanationStatus | None:
        """The same as ``explaining.Explain``, one explanation of the operator at a time."""
        task = Explained(world, asked, min(deadline_seconds, self._most_seconds))
        return self._explaining.ask(world.plan.namespace, task, unwanted)


def shared_processes(cores: int, container_bytes: int | None) -> int:
    """The number of processes for searches that are not urgent: one for each core but one, at least one.

    No more are started than have memory for usual searches beside the operator and the three other processes.
    """
    if container_bytes is not None:
        cores = min(cores, (container_bytes - OPERATOR_BYTES) // USUAL_BYTES - 2)
    return max(1, cores - 1)


def _cores() -> int:
    """The number of cores that this process may use; in a pod, its limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return max(1, int(quota) // int(period))
    return len(os.sched_getaffinity(0))
