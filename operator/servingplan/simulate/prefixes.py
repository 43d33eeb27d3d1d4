"""The prefix cache of one engine: which parts of prompts have their KV blocks in memory.

A prompt is named part by part, and equal names mean equal tokens up to there. The rules are those of vLLM, by part instead of
by block:

* A part in use counts once, for all that read it. Two requests that compute the same part at the same time both have their own
  blocks for it, of which the later ones are not kept.
* Blocks that nobody uses are free and stay readable until they are taken. Those that were given back first are taken first,
  whether they can be read or not; of one request the end goes before the beginning.
* A part of which one block was taken cannot be read any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Several

from servingplan.simulate.pace import BLOCK_TOKENS

PART_TOKENS = 512
"""Tokens of a part; those of the Mooncake traces."""


class PrefixCache:
    """Parts by name, and the free blocks in the order in which they are taken.

    Args:
        free_blocks: those at the beginning, which hold nothing.
        part_tokens: the tokens of a part, a multiple of a block's.
    """

    def __init__(self, free_blocks: int, part_tokens: int = PART_TOKENS) -> None:
        if part_tokens < 1 or part_tokens % BLOCK_TOKENS:
            raise ValueError(f"part_tokens is {part_tokens} and must be a multiple of {BLOCK_TOKENS}")
        self.part_tokens = part_tokens
        self._part_blocks = part_tokens // BLOCK_TOKENS
        self._readers: dict[int, int] = {}
        """The number of requests that use a part."""
        self._free: OrderedDict[object, int] = OrderedDict()
        """Free blocks by the part that can be read in them; under a key of no meaning if none can."""
        self.give(free_blocks)

    def found(self, names: Several[int], prompt_tokens: int) -> int:
        """The number of parts, from the first on, that need not be computed. The last token always is."""
        most = min(len(names), (prompt_tokens - 1) // self.part_tokens)
        return next((at for at in range(most) if names[at] not in self._readers and names[at] not in self._free), most)

    def shared_blocks(self, names: Several[int]) -> int:
        """The blocks of those parts that requests use now."""
        return self._part_blocks * sum(name in self._readers for name in names)

    def read(self, names: Several[int]) -> int:
        """Use parts that were found. Returns their blocks."""
        for name in names:
            self._free.pop(name, None)
            self._readers[name] = self._readers.get(name, 0) + 1
        return self._part_blocks * len(names)

    def take(self, blocks: int) -> None:
        """Take free blocks for something new."""
        while blocks > 0:
            _, size = self._free.popitem(last=False)
            if size > blocks:
                rest = object()
                self._free[rest] = size - blocks
                self._free.move_to_end(rest, last=False)
            blocks -= size

    def give(self, blocks: int) -> None:
        """Give back blocks that cannot be read."""
        if blocks > 0:
            self._free[object()] = blocks

    def add(self, names: Several[int]) -> tuple[int, ...]:
        """Keep parts that were computed. Returns those of them that were not known, which are in use now."""
        new = tuple(name for name in names if name not in self._readers and name not in self._free)
        for name in new:
            self._readers[name] = 1
        return new

    def release(self, names: Several[int], blocks: int) -> int:
        """Give back all blocks of a request, with the parts that it used. Returns those that stay, since others use them."""
        self.give(blocks - self._part_blocks * len(names))
        for name in reversed(names):
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                self._free[name] = self._part_blocks
        return self.shared_blocks(names)
