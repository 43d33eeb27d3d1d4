"""Ports for servers that a test starts."""

import socket
from contextlib import ExitStack


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """So many ports that nobody listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [int(item.getsockname()[1]) for item in sockets]


def free_port(*, host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    return free_ports(1, host=host)[0]
