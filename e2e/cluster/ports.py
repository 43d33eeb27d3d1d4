"""Ports for servers that a test starts.

A port that the kernel names free may be anybody's a moment later: another server's, or the near end of a connection.
So each process takes a block of ports outside the range from which Linux gives ports by itself (32768 and up), and hands
them out in turn.
"""

import socket
from contextlib import closing
from itertools import cycle

_BLOCKS = range(20_000, 30_000, 200)
"""Below the ports of NodePort Services (30000 and up), above those that gateways and kubelets choose for themselves."""


class _Block:
    """Nobody else has it while this process listens on its first port."""

    def __init__(self) -> None:
        first = next(filter(_take, _BLOCKS), None)
        if first is None:
            raise RuntimeError(f"somebody listens on the first port of every block of {_BLOCKS}")
        self._ports = cycle(range(first + 1, first + _BLOCKS.step))

    def next(self, host: str) -> int:
        return next(port for port in self._ports if _is_free(host, port))


def _take(first: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", first)).detach()  # open until the process ends
    except OSError:
        return False
    return True


def _is_free(host: str, port: int) -> bool:
    try:
        with closing(socket.create_server((host, port))):
            return True
    except OSError:
        return False


_block: _Block | None = None


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """So many ports that nobody listens on, all different."""
    global _block
    _block = _block or _Block()
    return [_block.next(host) for _ in range(count)]


def free_port(*, host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    return free_ports(1, host=host)[0]
