"""Results that are kept, since every turn asks the same again.

The functions are pure and their results are never changed, so whether a result was kept can be seen by the clock alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable


class Kept[K: Hashable, V]:
    """The values that were put last, at most ``most`` of them. Several threads may use it at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[K, V] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not kept."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, in the place of the one that was put first if there are too many."""
        with self._lock:
            self._values.pop(key, None)
            while len(self._values) >= self._most:
                del self._values[next(iter(self._values))]
            self._values[key] = value

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._values.clear()


def for_same[**P, T](most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keeps the results of the last calls, by what the arguments are and not by what they hold: it neither hashes nor compares
    them. At most ``most`` calls are kept, and their arguments with them, so no other object can take the place of one. Several
    threads may call at once.
    """

    def around(function: Callable[P, T]) -> Callable[P, T]:
        kept = Kept[tuple[object, ...], tuple[object, T]](most)

        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            key = (*map(id, args), *((name, id(value)) for name, value in sorted(kwargs.items())))
            found = kept.get(key)
            if found is None:
                found = (args, kwargs), function(*args, **kwargs)
                kept.put(key, found)
            return found[1]

        return called

    return around
