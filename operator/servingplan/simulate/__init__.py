"""An engine on a clock that the caller holds: continuous batching as discrete events.

    pace.py      how long an iteration of one replica takes, by the project's own profile
    engine.py    the scheduler: waiting queue, running batch, KV blocks, preemption
    sequence.py one request and its times
    tally.py     what an engine counted: tokens, finishes, histograms of times

Everything here is pure: time is an argument. ``servingplan.emulate`` drives it by the wall clock and speaks HTTP; a replay
drives it by the arrivals of a trace.
"""
