"""``servingplan emulate``: an OpenAI-compatible server that behaves as a replica of the plan would, without a GPU.

Flow: profiles -> simulate -> **emulate**.

    wire.py         OpenAI's bodies in and out, and what is refused
    text.py         how tokens are counted and what the answers say
    live.py         one engine on the wall clock: states, failures, waiting requests
    pacer.py        one timer for all engines of a process
    exposition.py   ``/metrics`` under vLLM's names
    server.py       the HTTP handlers
    arguments.py    from a command line, vLLM's included, to a replica
    launch.py       ports, signals, drain
"""
