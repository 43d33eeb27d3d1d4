"""One engine with continuous batching, as discrete events.

Flow: profiles -> **simulate** -> emulate. The rules are those of vLLM's V1 scheduler:

* Work is done in iterations. Each iteration gives every decoding sequence one token and spends the rest of
  ``max_num_batched_tokens`` on prompts, in the order of arrival. A prompt that does not fit is read in chunks.
* At most ``max_num_seqs`` sequences run. A prompt is admitted if there are free blocks for all of it.
* If a decoding sequence needs a block and none is free, the sequence that was admitted last is preempted: it releases all its
  blocks, returns to the front of the queue, and is computed again with its generated tokens.
* Layers with a window hold no more of a prompt than the window, and a recurrent state counts as blocks. Generated tokens take
  blocks in all layers. This is a little too much, until the sequence is computed again.
* A sequence leaves at the end of the iteration that generates its last token.

* With speculation an iteration gives every decoding sequence several tokens. The mean number is the one that the estimator
  assumes (``EngineSettings.tokens_per_step``); all sequences get the same number, spread evenly over iterations. Memory for all
  of these tokens must be free; if it is not, fewer are proposed. The last iteration of an answer may generate unused tokens.
* Where requests name the parts of their prompts, the prefix cache holds the parts that were read (``prefixes``). What is found
  there is not read again, and takes no blocks while another request uses it. Answers are not kept in it.
* Where they do not, a declared share of every prompt is found in it, which takes its blocks.

There are no priorities.

The simulation of an iteration takes constant time for any batch, because all decoding sequences advance together. Their
progress is one count of rounds, their ends are a heap of rounds, and the blocks that they need next are a table by remainder.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from servingplan.simulate.pace import BLOCK_TOKENS, Pace
from servingplan.simulate.prefixes import PrefixCache
from servingplan.simulate.sequence import FinishReason, Sequence
from servingplan.simulate.tally import Tally


@dataclass(slots=True)
class _Chunk:
    sequence: Sequence
    stop: int


class Engine:
    """The scheduler of one replica.

    ``admit``, ``advance`` and ``abort`` take the present time, which must not decrease from call to call. An admitted sequence
    takes part from the first iteration that begins at its arrival or later.

    Args:
        max_num_seqs: the most sequences that run together.
        max_num_batched_tokens: the most tokens of one iteration; at least ``max_num_seqs``.
        prefix_cache_hit_share: the part of each prompt, below 1, that is found in the prefix cache, for prompts whose parts
            have no names.
        part_tokens: the tokens of a named part; None: there is no cache for named parts. It must be None where layers have
            a window or a recurrent state, since parts then take fewer blocks than their tokens.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefix_cache_hit_share: float = 0.0,
        part_tokens: int | None = None,
    ) -> None:
        if max_num_seqs < 1 or max_num_batched_tokens < max_num_seqs:
            raise ValueError(
                f"max_num_seqs is {max_num_seqs} and must be at least 1; max_num_batched_tokens is "
                f"{max_num_batched_tokens} and must be at least max_num_seqs"
            )
        self.pace = pace
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.prefix_cache_hit_share = prefix_cache_hit_share
        self._part_tokens = part_tokens
        self._prefixes: PrefixCache | None = None  # from the first request with names on
        self.tally = Tally(pace.max_model_len)
        self.slowdown = 1.0
        """A factor on the time of iterations that begin from now on."""
        self.free_blocks = pace.kv_blocks
        self.next_time: float | None = None
        """The end of the running iteration; None if none runs."""
        self._waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, None] = {}  # in the order of admission
        self._chunks: list[_Chunk] = []
        self._partial: Sequence | None = None
        self._maturing: dict[Sequence, float] = {}  # prompts in later pipeline stages, and when these end
        self._aborted: list[Sequence] = []
        # The decode phase: rounds done, sequences in it, and the sum of their KV tokens.
        self._round = 0
        self._decoders = 0
        self._step_tokens = 0
        """The tokens that the running iteration gives each decoding sequence."""
        self._owed_tokens = 0.0
        self._context_tokens = 0
        self._joined = 0
        self._ends: list[tuple[int, int, Sequence]] = []
        self._need_by_round = [0] * BLOCK_TOKENS
        self._began = 0.0
        # Sums over the running sequences, for the mean lengths.
        self._prompts = 0
        self._outputs = 0

    @property
    def running(self) -> int:
        """The number of sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """The number of sequences in the queue, with preempted ones."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running and not self._waiting

    @property
    def kv_usage(self) -> float:
        """The share of the KV blocks that is in use."""
        return 1.0 - self.free_blocks / self.pace.kv_blocks

    def fits(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether a sequence of these lengths is within the context."""
        return prompt_tokens + output_tokens <= self.pace.max_model_len

    def admit(
        self,
        prompt_tokens: int,
        output_tokens: int,
        now: float,
        reason: FinishReason = "length",
        prefix: tuple[int, ...] = (),
    ) -> Sequence:
        """Put a request at the end of the queue. Returns its sequence. ``prefix`` has the names of the parts of
        its prompt, each once.

        Raises:
            ValueError: a length is below 1, or both exceed ``max_model_len``.
        """
        if prompt_tokens < 1 or output_tokens < 1 or not self.fits(prompt_tokens, output_tokens):
            raise ValueError(
                f"{prompt_tokens} prompt and {output_tokens} output tokens; both must be at least 1, "
                f"their sum at most {self.pace.max_model_len}"
            )
        if prefix and self._part_tokens is not None and self._prefixes is None:
            self._prefixes = PrefixCache(self.free_blocks, self._part_tokens)
        sequence = Sequence(prompt_tokens, output_tokens, now, reason, prefix if self._prefixes else ())
        self._waiting.append(sequence)
        if self.next_time is None and not self._running:
            self._begin(now)
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Remove a request: at once if it waits, at the end of the running iteration if it runs.

        If that iteration finishes the request, it counts as finished.
        """
        if sequence.finished is not None or sequence in self._aborted:
            return
        if sequence in self._running:
            self._aborted.append(sequence)
        else:
            self._waiting.remove(sequence)
            self._close(sequence, now, "abort")

    def advance(self, now: float) -> list[Sequence]:
        """Advance the time. Returns the sequences that finished, in the order of their ends."""
        finished: list[Sequence] = []
        while True:
            if self.next_time is None:
                if not self._waiting or self._waiting[0].arrived > now:
                    return finished
                self._begin(self._waiting[0].arrived)
            elif self.next_time <= now:
                ended = self.next_time
                self._complete(ended, finished)
                self._begin(ended)
            else:
                return finished

    def generated(self, sequence: Sequence) -> int:
        """The number of tokens that the sequence has generated."""
        if sequence.last_round is None:
            return sequence.kept_tokens
        return sequence.output_tokens - (sequence.last_round - self._round)

    # --- the beginning of an iteration

    def _begin(self, now: float) -> None:
        """Choose the work of the next iteration and set its end."""
        preempted = self._make_room(now)
        # Proposed tokens count against the budget too. At least one token remains for prompts, so that they always advance.
        budget = max(1, self.max_num_batched_tokens - self._decoders * self.pace.positions_per_step)
        self._chunks = []
        if self._partial is not None:
            budget = self._read(self._partial, budget)
        while self._waiting and budget > 0 and not preempted and len(self._running) < self.max_num_seqs:
            head = self._waiting[0]
            blocks = self.pace.blocks(head.prompt_tokens + head.kept_tokens)
            found, shared = self._found(head)
            if head.arrived > now or blocks - shared > self.free_blocks:
                break
            self._waiting.popleft()
            self._start(head, blocks, now, found, shared)
            budget = self._read(head, budget)
        self._began = now
        self.next_time = self._end_of_iteration(now)

    def _make_room(self, now: float) -> bool:
        """Give the decoding sequences the blocks of their next tokens. Returns whether sequences were preempted for them."""
        preempted = False
        self._step_tokens = self._tokens_of_next_step() if self._decoders else 0
        needed = self._blocks_needed()
        while self._step_tokens > 1 and needed > self.free_blocks:
            self._step_tokens -= 1
            needed = self._blocks_needed()
        while needed > self.free_blocks:
            self._preempt(next(reversed(self._running)), now)
            preempted = True
            needed = self._blocks_needed()
        self.free_blocks -= needed
        if self._prefixes is not None:
            self._prefixes.take(needed)
        return preempted

    def _found(self, sequence: Sequence) -> tuple[int, int]:
        """The number of parts of a prompt that are in the prefix cache, and the blocks of these that others use."""
        if self._prefixes is None:
            return 0, 0
        found = self._prefixes.found(sequence.prefix, sequence.prompt_tokens)
        return found, self._prefixes.shared_blocks(sequence.prefix[:found])

    def _tokens_of_next_step(self) -> int:
        self._owed_tokens += self.pace.tokens_per_step
        whole = int(self._owed_tokens + 1e-9)
        self._owed_tokens -= whole
        return whole

    def _blocks_needed(self) -> int:
        if self._step_tokens == 1:
            return self._need_by_round[self._round % BLOCK_TOKENS]
        rounds = range(self._round, self._round + self._step_tokens)
        return sum(self._need_by_round[number % BLOCK_TOKENS] for number in rounds)

    def _preempt(self, sequence: Sequence, now: float) -> None:
        sequence.kept_tokens = self.generated(sequence)
        if sequence.last_round is not None:
            sequence.stopped_at = now
        self._leave(sequence)
        self._waiting.appendleft(sequence)
        self.tally.preemptions += 1

    def _start(self, sequence: Sequence, blocks: int, now: float, found: int, shared: int) -> None:
        if sequence.started is None:
            sequence.started = now
            self.tally.queue.observe(now - sequence.arrived)
        self.free_blocks -= blocks - shared
        sequence.read_tokens = cached_tokens(sequence.prompt_tokens, self.prefix_cache_hit_share)
        if self._prefixes is not None:
            sequence.used_parts = sequence.prefix[:found]
            reused = self._prefixes.read(sequence.used_parts)
            self._prefixes.take(blocks - reused)
            if sequence.prefix:
                sequence.read_tokens = found * self._prefixes.part_tokens
        sequence.reserved_blocks = blocks
        sequence.spared_blocks = _blocks(sequence.prompt_tokens + sequence.kept_tokens) - blocks
        self.tally.prefix_queries += sequence.prompt_tokens + sequence.kept_tokens
        self.tally.prefix_hits += sequence.read_tokens
        self._running[sequence] = None
        self._prompts += sequence.prompt_tokens
        self._outputs += sequence.output_tokens

    def _read(self, sequence: Sequence, budget: int) -> int:
        """Read as much of the prompt as the budget allows. Returns the rest of the budget, in tokens."""
        whole = sequence.prompt_tokens + sequence.kept_tokens
        stop = min(whole, sequence.read_tokens + budget)
        self._chunks.append(_Chunk(sequence, stop))
        self._partial = sequence if stop < whole else None
        return budget - (stop - sequence.read_tokens)

    def _end_of_iteration(self, now: float) -> float | None:
        if not self._decoders and not self._chunks:
            return min(self._maturing.values(), default=None)
        pace = self.pace
        complete = len(self._chunks) - (self._partial is not None)
        seconds = pace.step_seconds(max(1, self._decoders + complete), self._context_tokens)
        count = len(self._running)
        stretch = self.slowdown * pace.stretch(count, self._prompts / count, self._outputs / count)
        before = (self._decoders + complete) * pace.positions_per_step
        for chunk in self._chunks:
            share = pace.prefill_seconds(chunk.sequence.read_tokens, chunk.stop, before) / pace.stages
            before += chunk.stop - chunk.sequence.read_tokens
            seconds += share
            chunk.sequence.delay_seconds += (pace.stages - 1) * share * stretch
        return now + seconds * stretch

    # --- the end of an iteration

    def _complete(self, now: float, finished: list[Sequence]) -> None:
        """Assign the tokens of the iteration that ends now."""
        tally = self.tally
        tally.iterations += 1
        tally.busy_seconds += now - self._began
        if self._decoders:
            self._round += self._step_tokens
            self._context_tokens += self._decoders * self._step_tokens
            tally.generation_tokens += self._decoders * self._step_tokens
            tally.inter_token.observe(now - self._began, self._decoders)
            while self._ends and self._ends[0][0] <= self._round:
                last_round, _, sequence = heapq.heappop(self._ends)
                if sequence.last_round == last_round:  # else it was preempted meanwhile
                    tally.generation_tokens -= self._round - last_round
                    self._leave(sequence)
                    self._finish(sequence, now, finished)
        for chunk in self._chunks:
            if self._prefixes is not None:
                self._keep(self._prefixes, chunk)
            chunk.sequence.read_tokens = chunk.stop
            if chunk.sequence is not self._partial:
                self._maturing[chunk.sequence] = now + chunk.sequence.delay_seconds
        for sequence in [sequence for sequence, ready in self._maturing.items() if ready <= now]:
            self._prefilled(sequence, now, finished)
        for sequence in self._aborted:
            if sequence.finished is None:
                self._leave(sequence)
                self._close(sequence, now, "abort")
        self._aborted.clear()

    def _keep(self, prefixes: PrefixCache, chunk: _Chunk) -> None:
        """Put the parts of the prompt that end in this chunk into the prefix cache."""
        sequence, size = chunk.sequence, prefixes.part_tokens
        begin, end = sequence.read_tokens // size, min(chunk.stop, sequence.prompt_tokens) // size
        sequence.used_parts += prefixes.add(sequence.prefix[begin:end])

    def _prefilled(self, sequence: Sequence, now: float, finished: list[Sequence]) -> None:
        """Note the first token after a prompt was read, and start the decode phase of the sequence."""
        del self._maturing[sequence]
        self.tally.generation_tokens += 1
        if sequence.first_token is None:
            sequence.first_token = now
            self.tally.prompt_tokens += sequence.prompt_tokens
            self.tally.first_token.observe(now - sequence.arrived)
        else:
            self.tally.inter_token.observe(now - sequence.stopped_at)
        if sequence.kept_tokens + 1 == sequence.output_tokens:
            self._leave(sequence)
            self._finish(sequence, now, finished)
            return
        held = sequence.prompt_tokens + sequence.kept_tokens
        sequence.last_round = self._round + sequence.output_tokens - sequence.kept_tokens - 1
        self._decoders += 1
        self._context_tokens += held
        self._need_by_round[(self._round - held) % BLOCK_TOKENS] += 1
        self._joined += 1
        heapq.heappush(self._ends, (sequence.last_round, self._joined, sequence))

    def _leave(self, sequence: Sequence) -> None:
        """Remove a sequence from the batch and free all its blocks. Only between two iterations."""
        blocks = sequence.reserved_blocks
        if sequence.last_round is not None:
            held = sequence.prompt_tokens + self.generated(sequence) - 1
            blocks = _blocks(held) - sequence.spared_blocks
            self._decoders -= 1
            self._context_tokens -= held
            self._need_by_round[(self._round - held) % BLOCK_TOKENS] -= 1
            sequence.last_round = None
        self.free_blocks += blocks
        if self._prefixes is not None:
            self.free_blocks -= self._prefixes.release(sequence.used_parts, blocks)
            sequence.used_parts = ()
        sequence.reserved_blocks = sequence.read_tokens = 0
        sequence.delay_seconds = 0.0
        del self._running[sequence]
        self._maturing.pop(sequence, None)
        self._prompts -= sequence.prompt_tokens
        self._outputs -= sequence.output_tokens
        if self._partial is sequence:
            self._partial = None

    def _finish(self, sequence: Sequence, now: float, finished: list[Sequence]) -> None:
        sequence.kept_tokens = sequence.output_tokens
        self._close(sequence, now, sequence.reason)
        finished.append(sequence)

    def _close(self, sequence: Sequence, now: float, reason: FinishReason) -> None:
        sequence.finished = now
        tally = self.tally
        tally.finished[reason] += 1
        if reason == "abort" or sequence.started is None or sequence.first_token is None:
            return
        tally.end_to_end.observe(now - sequence.arrived)
        tally.inference.observe(now - sequence.started)
        tally.prefill.observe(sequence.first_token - sequence.started)
        tally.decode.observe(now - sequence.first_token)
        tally.request_prompt.observe(sequence.prompt_tokens)
        tally.request_generation.observe(sequence.output_tokens)
        if (mean := sequence.time_per_output_token) is not None:
            tally.per_output_token.observe(mean)


def run(engine: Engine, requests: Iterable[tuple[float, int, int]]) -> list[Sequence]:
    """The sequences of all requests after the last one is served, in the order of arrival, with their times.

    `requests` are (arrival in seconds, prompt tokens, output tokens), in the order of arrival.
    """
    served = []
    for arrival, prompt_tokens, output_tokens in requests:
        engine.advance(arrival)
        served.append(engine.admit(prompt_tokens, output_tokens, arrival))
    engine.advance(math.inf)
    return served


def cached_tokens(prompt_tokens: int, share: float) -> int:
    """The number of prompt tokens that need not be read. The last token is always read, to compute the first answer token."""
    return min(int(share * prompt_tokens), prompt_tokens - 1)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
