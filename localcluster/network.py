"""The cable between this machine and a real node's network namespace, with the addresses on both sides.

All addresses are of 198.18.0.0/15, which RFC 2544 keeps for tests: no network of a person's is hidden by the routes.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SLOTS = 16


class NetworkError(RuntimeError):
    """The cable could not be laid; the message is that of the program ``ip``."""


@dataclass(frozen=True)
class NodeNetwork:
    """Addresses of one node; ``slot`` keeps several on one machine apart."""

    slot: int

    @property
    def interface(self) -> str:
        """This machine's end of the cable."""
        return f"sp-host{self.slot}"

    @property
    def peer(self) -> str:
        """The node's end."""
        return f"sp-node{self.slot}"

    @property
    def host_address(self) -> str:
        """The address of this machine, as the node and its pods see it."""
        return f"198.18.{self.slot}.1"

    @property
    def node_address(self) -> str:
        """The address of the node."""
        return f"198.18.{self.slot}.2"

    @property
    def pods(self) -> str:
        """Range of the pods' addresses, reachable from this machine."""
        return f"198.18.{64 + self.slot}.0/24"

    @property
    def services(self) -> str:
        """Range of the Services' addresses, reachable from this machine through the node's proxy."""
        return f"198.19.{self.slot}.0/24"

    def service_address(self, number: int) -> str:
        """One of the Services' addresses; 1 is the API server's."""
        return self.services.replace("0/24", str(number))


class Cable:
    """A veth pair and the routes to the node's pods and Services, for the length of a block."""

    def __enter__(self) -> Self:
        self.network = _lay()
        try:
            _ip("address", "add", f"{self.network.host_address}/30", "dev", self.network.interface)
            _ip("link", "set", self.network.interface, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def plug_in(self, process: int) -> None:
        """Give the node's end to the network namespace of a process, and send what is for its pods there."""
        network = self.network
        _ip("link", "set", network.peer, "netns", str(process))
        for where in (network.pods, network.services):
            _ip("route", "add", where, "via", network.node_address, "dev", network.interface, "onlink")

    def __exit__(self, *_: object) -> None:
        # It goes by itself when the node's namespace does; its routes go with it.
        subprocess.run(["ip", "link", "delete", self.network.interface], capture_output=True)


def _lay() -> NodeNetwork:
    for network in map(NodeNetwork, range(_SLOTS)):
        if not Path(f"/sys/class/net/{network.interface}").exists():
            _ip("link", "add", network.interface, "type", "veth", "peer", "name", network.peer)
            return network
    raise NetworkError(f"{_SLOTS} real nodes run on this machine already")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
