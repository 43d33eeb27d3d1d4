"""Asks servers that authors of plans choose. Each answer ends in time, and no namespace takes all threads.

A socket's timeout holds for each piece that arrives, so a server that answers slowly could block a thread without end.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, override


@contextlib.contextmanager
def ends_within(connected: socket.socket, seconds: float) -> Iterator[None]:
    """Shut the connection down after ``seconds``; its reader then reads the end of the stream."""
    # The copy stays the same connection also with TLS, whose socket has no dup, and after the file is closed.
    twin = socket.socket(fileno=os.dup(connected.fileno()))
    timer = threading.Timer(max(0.0, seconds), _shut, [twin])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def get(
    address: str, port: int, path: str, *, seconds: float, most_bytes: int, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a ``GET``: at most ``most_bytes`` of the body, all within ``seconds``.

    Raises ``OSError``, ``http.client.HTTPException`` or ``ValueError`` if there is no answer.
    """
    end = time.monotonic() + seconds
    with closing(http.client.HTTPConnection(address, port, timeout=seconds)) as connection:
        connection.connect()
        with ends_within(connection.sock, end - time.monotonic()):
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            body = answer.read(most_bytes)
        if time.monotonic() >= end:
            raise TimeoutError("the answer was cut off")
        return answer.status, body


class SharedThreads:
    """A thread pool that gives each namespace at most a share; further calls of the namespace wait for its share."""

    def __init__(self, threads: int, *, share: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._most = share
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    def of(self, namespace: str) -> Executor:
        """The executor of the namespace, which uses at most its share."""
        with self._lock:
            return self._shares.setdefault(namespace, _Share(self._threads, self._most))

    def shutdown(self) -> None:
        """Stop the threads; calls that have not begun are cancelled."""
        with self._lock:
            for share in self._shares.values():
                share.shutdown()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Share(Executor):
    def __init__(self, threads: Executor, most: int) -> None:
        self._threads = threads
        self._idle = most
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        asked: Future[T] = Future()
        with self._lock:
            self._waiting.append((asked, lambda: fn(*args, **kwargs)))
            starts = self._idle > 0
            self._idle -= starts
        if starts:
            self._threads.submit(self._work)
        return asked

    @override
    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for asked, _ in waiting:
            asked.cancel()
            asked.set_running_or_notify_cancel()  # wakes those that wait for the result

    def _work(self) -> None:
        """Run one call; the next call of this namespace queues behind the waiting calls of others."""
        with self._lock:
            if not self._waiting:
                self._idle += 1
                return
            asked, call = self._waiting.popleft()
        if asked.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                asked.set_exception(error)
            else:
                asked.set_result(result)
        with contextlib.suppress(RuntimeError):  # the threads are stopped, and waiting calls are cancelled
            self._threads.submit(self._work)
