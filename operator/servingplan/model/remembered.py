"""Results that are kept, since every turn asks the same again.

The functions are pure and their results are never changed, so whether a result was kept can be seen by the clock alone.
"""

from __future__ import annotations

from collections.abc import Callable


def for_same[**P, T](most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keeps the results of the last calls, by what the arguments are and not by what they hold: it neither hashes nor compares
    them. At most ``most`` calls are kept, and their arguments with them, so no other object can take the place of one. Several
    threads may call at once.
    """

    def around(function: Callable[P, T]) -> Callable[P, T]:
        kept: dict[tuple[object, ...], tuple[object, T]] = {}

        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            key = (*map(id, args), *((name, id(value)) for name, value in sorted(kwargs.items())))
            found = kept.get(key)
            if found is None:
                found = (args, kwargs), function(*args, **kwargs)
                if len(kept) >= most:
                    kept.clear()
                kept[key] = found
            return found[1]

        return called

    return around
