"""The scheduler against one that is written out sequence by sequence, and properties that any scheduler must have."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings, Speculation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.roofline import RESERVED_BYTES_PER_GPU
from servingplan.simulate.engine import Engine, run
from servingplan.simulate.pace import BLOCK_TOKENS, Pace

MODEL = find_model("llama-3.2-1b")
GPU = find_gpu("L4")
MAX_MODEL_LEN = 320


SPECULATION = {
    None: None,
    "some": Speculation(method="ngram", tokens=3, acceptance=0.6),
    "all": Speculation(method="ngram", tokens=20, acceptance=1.0),
}


def small_pace(*, blocks=40, stages=1, speculation=None):
    """A replica on cards whose memory leaves room for ``blocks`` blocks."""
    tokens = blocks * BLOCK_TOKENS + 1
    needed = MODEL.weight_bytes("bf16") + MODEL.kv_bytes_per_token() * tokens
    memory = math.ceil((needed / stages + RESERVED_BYTES_PER_GPU) / 0.9)
    gpu = GPU.model_copy(update={"memory_bytes": memory})
    pace = Pace(
        model=MODEL,
        precision="bf16",
        gpu=gpu,
        pipeline_parallel=stages,
        settings=EngineSettings(max_model_len=MAX_MODEL_LEN, speculation=SPECULATION[speculation]),
    )
    assert pace.kv_blocks == blocks
    return pace


PACES = {(blocks, stages): small_pace(blocks=blocks, stages=stages) for blocks in (20, 40, 400) for stages in (1, 2)}
PACES |= {
    (blocks, stages, speculation): small_pace(blocks=blocks, stages=stages, speculation=speculation)
    for blocks in (20, 40)
    for stages in (1, 2)
    for speculation in ("some", "all")
}


PART = 32
"""Tokens of a named part, two blocks."""


class Memory:
    """All blocks one by one: which are free, in the order in which they are taken, and what part each holds."""

    def __init__(self, blocks):
        self.free = list(range(blocks))
        self.users = dict.fromkeys(range(blocks), 0)
        self.holds = {}

    def blocks_of_part(self, name):
        return [block for block, held in self.holds.items() if held == name]

    def find(self, names, prompt):
        """The leading parts that are held, without the last token of the prompt."""
        found = []
        for number, name in enumerate(names):
            if (number + 1) * PART > prompt - 1 or not self.blocks_of_part(name):
                break
            found.append(name)
        return found

    def new_for(self, found):
        """How many of the free blocks the parts that were found are."""
        return sum(block in self.free for name in found for block in self.blocks_of_part(name))

    def open(self, found, count):
        """The parts that were found, and new blocks up to a count."""
        taken = [block for name in found for block in self.blocks_of_part(name)]
        for block in taken:
            self.users[block] += 1
            if block in self.free:
                self.free.remove(block)
        return taken + [self.one() for _ in range(count - len(taken))]

    def one(self):
        block = self.free.pop(0)
        self.users[block] = 1
        if block in self.holds:
            gone = self.holds[block]
            self.holds = {other: name for other, name in self.holds.items() if name != gone}
        return block

    def close(self, taken):
        for block in reversed(taken):
            self.users[block] -= 1
            if not self.users[block]:
                self.free.append(block)

    def keep(self, name, blocks):
        if not self.blocks_of_part(name):
            self.holds.update(dict.fromkeys(blocks, name))


class Plain:
    """One sequence of the reference."""

    def __init__(self, arrival, prompt, output, names=()):
        self.names, self.taken = names, []
        self.arrived, self.prompt, self.output = arrival, prompt, output
        self.generated = self.read = 0
        self.delay, self.ready, self.decoding = 0.0, None, False
        self.started = self.first_token = self.finished = None

    @property
    def blocks(self):
        return len(self.taken)

    @property
    def held(self):
        return self.prompt + self.generated - 1 if self.decoding else self.read


def blocks_of(tokens):
    return math.ceil(tokens / BLOCK_TOKENS)


def plain_run(pace, requests, *, max_num_seqs, max_num_batched_tokens, hit_share=0.0):
    """The documented rules, sequence by sequence and token by token; returns the sequences and the preemptions."""
    sequences = [Plain(*request) for request in requests]
    coming, waiting, running = list(sequences), [], []
    now, preemptions, owed = -1.0, 0, 0.0
    joined = matures = 0
    memory = Memory(pace.kv_blocks)
    while coming or waiting or running:
        if not running and not waiting and coming[0].arrived > now:
            now = coming[0].arrived
            waiting.append(coming.pop(0))  # an idle engine begins with the first request alone
        else:
            while coming and coming[0].arrived <= now:
                waiting.append(coming.pop(0))
        # As many tokens for everyone who decodes as are accepted, fewer where memory is short.
        step, decoders = 0, [item for item in running if item.decoding]
        if decoders:
            step = int(owed + pace.tokens_per_step + 1e-9)
            owed += pace.tokens_per_step - step
        free = len(memory.free)
        while step > 1 and sum(blocks_of(item.held + step) - item.blocks for item in decoders) > free:
            step -= 1
        # Blocks for the next tokens of everyone who decodes, oldest first.
        preempted, index = False, 0
        while index < len(running):
            sequence = running[index]
            while sequence in running and sequence.decoding and blocks_of(sequence.held + step) > sequence.blocks:
                while sequence in running and not memory.free:
                    victim = running.pop()
                    memory.close(victim.taken)
                    victim.taken, victim.read = [], 0
                    victim.delay, victim.ready, victim.decoding = 0.0, None, False
                    waiting.insert(0, victim)
                    preemptions, preempted = preemptions + 1, True
                if sequence in running:
                    sequence.taken.append(memory.one())
            index += 1
        decoders = [item for item in running if item.decoding]
        budget = max(1, max_num_batched_tokens - len(decoders) * pace.positions_per_step)
        chunks = []
        for item in running:
            whole = item.prompt + item.generated
            if not item.decoding and item.ready is None and item.read < whole:
                chunks.append((item, item.read, min(whole, item.read + budget)))
                budget -= chunks[-1][2] - item.read
        while waiting and budget > 0 and not preempted and len(running) < max_num_seqs:
            item = waiting[0]
            whole = item.prompt + item.generated
            parts = memory.find(item.names, item.prompt)
            shared = len(parts) * PART // BLOCK_TOKENS - memory.new_for(parts)
            if blocks_of(whole) - shared > len(memory.free):
                break
            running.append(waiting.pop(0))
            item.taken = memory.open(parts, blocks_of(whole))
            item.started = now if item.started is None else item.started
            found = len(parts) * PART if item.names else min(int(hit_share * item.prompt), item.prompt - 1)
            chunks.append((item, found, min(whole, found + budget)))
            budget -= chunks[-1][2] - found
        assert len({block for item in running for block in item.taken}) == pace.kv_blocks - len(memory.free)
        if decoders or chunks:
            complete = sum(stop == item.prompt + item.generated for item, _, stop in chunks)
            context = sum(item.held for item in decoders)
            seconds = pace.step_seconds(max(1, len(decoders) + complete), context)
            before = (len(decoders) + complete) * pace.positions_per_step
            for item, start, stop in chunks:
                share = pace.prefill_seconds(start, stop, before) / pace.stages
                before += stop - start
                seconds += share
                item.delay += (pace.stages - 1) * share
            now += seconds
        else:
            now = min(item.ready for item in running if item.ready is not None)
        for item in decoders:
            item.generated += step
        for item, _, stop in chunks:
            item.read = stop
            for number, name in enumerate(item.names):
                if (number + 1) * PART <= min(stop, item.prompt):
                    size = PART // BLOCK_TOKENS
                    memory.keep(name, item.taken[number * size : (number + 1) * size])
            if stop == item.prompt + item.generated:
                item.ready = now + item.delay
                item.matures, matures = matures, matures + 1
        # Of those that end together, the order in which blocks become free decides which prefix is lost first: decoding ones by
        # their last token and since when they decode, then prompts that are answered by one token.
        ended = [item for item in decoders if item.generated >= item.output]
        ended.sort(key=lambda item: (item.output - item.generated, item.joined))
        for item in sorted((item for item in running if item.ready is not None), key=lambda item: item.matures):
            if item.ready <= now:
                item.ready, item.decoding = None, True
                item.joined, joined = joined, joined + 1
                item.generated += 1
                item.first_token = now if item.first_token is None else item.first_token
                ended += [item] if item.generated >= item.output else []
        for item in ended:
            item.finished = now
            memory.close(item.taken)
            running.remove(item)
    return sequences, preemptions


requests_lists = st.lists(
    st.tuples(
        st.floats(0, 0.3),
        st.integers(1, 200),
        st.integers(1, MAX_MODEL_LEN - 200),
    ),
    min_size=1,
    max_size=14,
).map(lambda items: [(sum(gap for gap, _, _ in items[: n + 1]), *items[n][1:]) for n in range(len(items))])
limits = st.sampled_from([(1, 1), (2, 16), (4, 64), (8, 2048)])
paces = st.sampled_from(sorted(PACES, key=str))


@pytest.mark.slow
@settings(max_examples=120)
@given(requests_lists, limits, paces, st.sampled_from([0.0, 0.3, 0.95]))
def test_it_does_what_the_plain_scheduler_does(requests, limit, key, share):
    batch = {"max_num_seqs": limit[0], "max_num_batched_tokens": limit[1]}
    engine = Engine(PACES[key], **batch, prefix_cache_hit_share=share)
    served = run(engine, requests)
    plain, preemptions = plain_run(PACES[key], requests, **batch, hit_share=share)
    for ours, theirs in zip(served, plain, strict=True):
        assert ours.started == pytest.approx(theirs.started, abs=1e-9)
        assert ours.first_token == pytest.approx(theirs.first_token, abs=1e-9)
        assert ours.finished == pytest.approx(theirs.finished, abs=1e-9)
    assert engine.tally.preemptions == preemptions


conversations = st.lists(
    st.tuples(st.floats(0, 0.3), st.integers(1, 200), st.integers(1, 100), st.integers(0, 2), st.integers(0, 6)),
    min_size=1,
    max_size=20,
)


def named(items):
    """Requests whose prompts share their beginning with others of the same conversation: (arrival, prompt, answer, names)."""
    found, now = [], 0.0
    for number, (gap, prompt, output, conversation, common) in enumerate(items):
        now += gap
        parts = range(-(-prompt // PART))
        names = tuple(100 * conversation + at if at < common else 1000 + 100 * number + at for at in parts)
        found.append((now, prompt, output, names))
    return found


@pytest.mark.slow
@settings(max_examples=200)
@given(conversations, limits, paces)
def test_it_finds_the_prefixes_that_memory_block_by_block_holds(items, limit, key):
    batch = {"max_num_seqs": limit[0], "max_num_batched_tokens": limit[1]}
    engine, requests = Engine(PACES[key], **batch, part_tokens=PART), named(items)
    served = []
    for arrival, prompt, output, names in requests:
        engine.advance(arrival)
        served.append(engine.admit(prompt, output, arrival, prefix=names))
        assert 0 <= engine.free_blocks <= engine.pace.kv_blocks
    engine.advance(math.inf)
    plain, preemptions = plain_run(PACES[key], requests, **batch)
    for ours, theirs in zip(served, plain, strict=True):
        assert ours.started == pytest.approx(theirs.started, abs=1e-9)
        assert ours.first_token == pytest.approx(theirs.first_token, abs=1e-9)
        assert ours.finished == pytest.approx(theirs.finished, abs=1e-9)
    assert engine.tally.preemptions == preemptions
    assert engine.free_blocks == engine.pace.kv_blocks


def test_a_prefix_is_read_once_while_memory_lasts():
    def hits(blocks, names):
        engine = Engine(PACES[blocks, 1], max_num_seqs=2, max_num_batched_tokens=2048, part_tokens=PART)
        for name in names:
            engine.admit(5 * PART + 10, 2, 0.0, prefix=tuple(range(10 * name, 10 * name + 6)))
            engine.advance(math.inf)
        return engine.tally.prefix_hits

    assert hits(40, (1, 1)) == 5 * PART
    assert hits(40, (1, 2, 1)) == 5 * PART
    # Of 20 blocks the second takes the 9 that nobody had used, the last of the first, and one of the first's fifth part.
    assert hits(20, (1, 2, 1)) == 4 * PART


def test_speculation_gives_as_many_tokens_an_iteration_as_the_estimator_counts_on():
    pace = PACES[40, 1, "some"]
    assert pace.tokens_per_step == SPECULATION["some"].tokens_per_step == pytest.approx(1 + 0.6 + 0.36 + 0.216)
    engine = Engine(pace, max_num_seqs=2, max_num_batched_tokens=2048)
    run(engine, [(0.0, 20, 200)])
    assert engine.tally.iterations == pytest.approx(1 + 199 / pace.tokens_per_step, abs=1)
    assert engine.tally.generation_tokens == 200


def test_a_sequence_that_fills_the_memory_ends_with_speculation_too():
    engine = Engine(PACES[20, 1, "all"], max_num_seqs=2, max_num_batched_tokens=2048)
    (only,) = run(engine, [(0.0, 10, MAX_MODEL_LEN - 10)])
    assert only.finished is not None
    assert engine.tally.preemptions == 0


def test_short_memory_preempts_and_everything_is_served_all_the_same():
    engine = Engine(PACES[20, 1], max_num_seqs=8, max_num_batched_tokens=2048)
    served = run(engine, [(0.0, 40, 120)] * 12)
    assert engine.tally.preemptions > 0
    assert all(sequence.finished is not None for sequence in served)
    assert engine.free_blocks == engine.pace.kv_blocks


@settings(max_examples=60)
@given(requests_lists, limits, paces, st.floats(0.001, 0.05))
def test_what_holds_at_every_iteration(requests, limit, key, step):
    """Blocks are within the limit and add up; the queue moves in order of arrival; tokens are conserved."""
    pace = PACES[key]
    engine = Engine(pace, max_num_seqs=limit[0], max_num_batched_tokens=limit[1])
    served, finished, now, coming = [], [], 0.0, list(requests)
    while coming or not engine.idle:
        now += step  # a clock that knows nothing of iterations
        while coming and coming[0][0] <= now:
            arrival, prompt, output = coming.pop(0)
            finished += engine.advance(arrival)
            served.append(engine.admit(prompt, output, arrival))
        finished += engine.advance(now)
        assert 0 <= engine.free_blocks <= pace.kv_blocks
        assert engine.running <= limit[0]
        assert all(0 <= engine.generated(sequence) <= sequence.output_tokens for sequence in served)
        if engine.idle:
            assert engine.free_blocks == pace.kv_blocks
    starts = [sequence.started for sequence in served]
    assert starts == sorted(starts)
    assert sorted(map(id, finished)) == sorted(map(id, served))
    assert [sequence.finished for sequence in finished] == sorted(sequence.finished for sequence in finished)
    tally = engine.tally
    assert tally.generation_tokens == sum(output for _, _, output in requests)
    assert tally.prompt_tokens == sum(prompt for _, prompt, _ in requests)
    assert tally.finished == {"stop": 0, "length": len(requests), "abort": 0}
    if pace.tokens_per_step == 1:
        assert tally.inter_token.count == tally.generation_tokens - len(requests)
    else:
        assert tally.inter_token.count <= tally.generation_tokens - len(requests)
    assert tally.busy_seconds <= now
    # The same as in one leap: how often somebody looks changes nothing.
    again = run(Engine(pace, max_num_seqs=limit[0], max_num_batched_tokens=limit[1]), requests)
    assert [sequence.finished for sequence in again] == [sequence.finished for sequence in served]


@settings(max_examples=60)
@given(requests_lists, limits, paces, st.randoms(use_true_random=False))
def test_aborts_give_everything_back(requests, limit, key, chance):
    engine = Engine(PACES[key], max_num_seqs=limit[0], max_num_batched_tokens=limit[1])
    served, aborted = [], set()
    for arrival, prompt, output in requests:
        engine.advance(arrival)
        served.append(engine.admit(prompt, output, arrival))
        victim = chance.choice(served)
        if chance.random() < 0.5 and victim.finished is None:
            engine.abort(victim, arrival)
            engine.abort(victim, arrival)  # twice is once
            aborted.add(victim)
    engine.advance(math.inf)
    assert engine.idle
    assert engine.free_blocks == engine.pace.kv_blocks
    assert all(sequence.finished is not None for sequence in served)
    counts = engine.tally.finished
    assert counts["length"] + counts["abort"] == len(requests)
    assert counts["abort"] <= len(aborted)


def test_a_larger_batch_is_never_slower_in_all():
    pace = PACES[400, 1]
    ends = []
    for batch in (1, 2, 4, 8, 16, 32):
        engine = Engine(pace, max_num_seqs=batch, max_num_batched_tokens=2048)
        ends.append(max(sequence.finished for sequence in run(engine, [(0.0, 50, 100)] * 64)))
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < ends[0] / 4


def test_a_long_prompt_is_read_in_chunks_and_the_others_go_on_meanwhile():
    engine = Engine(PACES[400, 1], max_num_seqs=4, max_num_batched_tokens=32)
    first = engine.admit(10, 100, 0.0)
    engine.advance(0.5)
    second = engine.admit(200, 2, 0.5)
    before, rounds = engine.generated(first), 0
    while second.first_token is None:
        engine.advance(engine.next_time)
        rounds += 1
    assert rounds == math.ceil(200 / 31) + 1  # one token of 32 is for the decoding sequence; one iteration was running
    assert engine.generated(first) == before + rounds


def test_a_slowed_engine_takes_its_factor():
    fast, slow = (Engine(PACES[400, 1], max_num_seqs=4, max_num_batched_tokens=2048) for _ in range(2))
    slow.slowdown = 3.0
    assert run(slow, [(0.0, 50, 60)])[0].finished == pytest.approx(3 * run(fast, [(0.0, 50, 60)])[0].finished)


def test_what_cannot_be_is_refused():
    pace = PACES[20, 1]
    with pytest.raises(ValueError, match="at least max_num_seqs"):
        Engine(pace, max_num_seqs=8, max_num_batched_tokens=4)
    engine = Engine(pace, max_num_seqs=8, max_num_batched_tokens=8)
    for prompt, output in ((0, 1), (1, 0), (MAX_MODEL_LEN, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            engine.admit(prompt, output, 0.0)
    with pytest.raises(InputError, match="take more GPUs"):
        Pace(model=find_model("llama-3.1-70b"), precision="bf16", gpu=GPU, settings=EngineSettings(max_model_len=100))


def test_an_iteration_costs_the_same_at_any_batch():
    """A thousand sequences cost the emulator no more per iteration than a few; what lets hundreds of engines share a core."""
    pace = PACES[400, 1]
    random.seed(1)
    engine = Engine(pace, max_num_seqs=1024, max_num_batched_tokens=2048)
    for _ in range(200):
        engine.admit(1, 30, 0.0)
    engine.advance(math.inf)
    assert engine.tally.iterations < 40
