"""How tokens are counted and what the answers say. There is no tokenizer: a token is a rule here, not a vocabulary.

A prompt has one token per four characters, rounded up, at least one; a prompt that is given as a list of numbers has that
many. An answer has one word per token, chosen by the request's bytes: the same request gets the same answer.
"""

from __future__ import annotations

from typing import Final

CHARACTERS_PER_TOKEN: Final = 4
"""The usual rule of thumb for English text and common vocabularies."""

_VOCABULARY: Final = """
a and answer are as at be both but by can card class copy cost day each fair far fast few find for from give good has high
how if in is it keep kind last less like line long low make mean model more most near need new next night no not now of off
on one open or order other part plan pool rate read same say see share short show slow small so still sum take than that
the then there they this time to token two under up use wait way what when which while who will with word work year yet
"""
_WORDS: Final = _VOCABULARY.split()
_LENGTH: Final = 4096


def _cycle() -> tuple[str, ...]:
    # A linear congruential generator (Numerical Recipes, 2nd edition, section 7.1): text that does not visibly repeat.
    state, words = 1, []
    for _ in range(_LENGTH):
        state = (1664525 * state + 1013904223) % 2**32
        words.append(" " + _WORDS[state * len(_WORDS) >> 32])
    return tuple(words)


_CYCLE: Final = _cycle()


def tokens_of(characters: int) -> int:
    """Tokens of a text with so many characters."""
    return max(1, -(-characters // CHARACTERS_PER_TOKEN))


def answer(seed: int, start: int, stop: int) -> str:
    """The tokens ``start`` to ``stop`` of the answer to the request that ``seed`` stands for."""
    first = (seed + start) % _LENGTH
    words: list[str] = []
    left = stop - start
    while left > 0:
        words += _CYCLE[first : first + left]
        left -= min(left, _LENGTH - first)
        first = 0
    return "".join(words)
