"""An event loop whose clock stands while anything happens and jumps while nothing does.

A server and its client in one such loop talk over real sockets; hours pass in seconds, and how fast the machine is decides
nothing.
"""

import asyncio
import selectors
import time

LONGEST_REAL_WAIT_SECONDS = 5.0


class _Jumping(selectors.DefaultSelector):
    loop = None

    def select(self, timeout=None):
        found = super().select(0)
        if found or timeout == 0:
            return found
        for _ in range(2):  # what the kernel still carries from one socket to the other
            time.sleep(2e-5)
            found = super().select(0)
            if found:
                return found
        if timeout is None:
            return super().select(LONGEST_REAL_WAIT_SECONDS)
        self.loop.passed += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.passed = 0.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.passed


def run(coroutine):
    """Its result, at once."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
