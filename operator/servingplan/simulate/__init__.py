"""Simulates an inference engine with continuous batching as discrete events. The caller supplies the time.

    pace.py      how long an iteration of one replica takes, by the project's own profile
    engine.py    the scheduler: waiting queue, running batch, KV blocks, preemption
    sequence.py  one request and its times
    tally.py     the counters of an engine: tokens, finished requests, histograms of times

Everything here is pure: time is an argument. ``servingplan.emulate`` runs it by the wall clock behind an HTTP server; a replay
runs it by the arrivals of a trace.
"""
