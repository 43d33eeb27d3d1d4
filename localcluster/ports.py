"""Ports for servers that a test starts.

What nobody listens on now may be another's by the time the server does. So every process has a block of ports of its
own, below those that a system gives to whoever asks for any, and uses up the block before it gives one out again.
"""

import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

_FIRST_PORTS = range(20_000, 30_000, 200)
"""Below NodePorts, above what gateways and kubelets choose for themselves."""


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """``count`` different ports that nobody listens on. Raises ``OSError`` if this process has not so many left."""
    found: list[int] = []
    for _ in range(_FIRST_PORTS.step):
        if len(found) == count:
            return found
        port = next(_own_block())
        if _is_free(host, port):
            found.append(port)
    raise OSError(f"this process has no {count} ports left that nobody listens on")


def free_port(*, host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    return free_ports(1, host=host)[0]


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


@cache
def _own_block() -> Iterator[int]:
    """Ports that no other process is given: it passes a block by whose first port is bound."""
    for first in _FIRST_PORTS:
        with socket.socket() as held:
            try:
                held.bind(("127.0.0.1", first))
            except OSError:
                continue
            held.detach()  # for as long as this process lives
            return cycle(range(first + 1, first + _FIRST_PORTS.step))
    raise OSError(f"{len(_FIRST_PORTS)} other processes keep ports for themselves")
