"""Published mixes of requests, by the lengths of their prompts and answers: Jiang et al., ICML 2025."""

from __future__ import annotations

from collections.abc import Mapping

LENGTHS = tuple((tokens_in, tokens_out) for tokens_in in (2455, 496, 824) for tokens_out in (18, 253, 510))
"""Tokens of prompt and answer of the nine types of requests (figure 4)."""
MIXES: Mapping[str, tuple[int, ...]] = {
    "T1": (33, 7, 8, 7, 27, 6, 6, 3, 3),
    "T2": (22, 5, 5, 21, 5, 5, 19, 6, 12),
    "T3": (4, 1, 4, 3, 20, 27, 1, 25, 15),
}
"""Per cent of the requests by type (table 5): T1 of the Swiss AI Center, T2 of Azure, T3 of WildGPT."""
