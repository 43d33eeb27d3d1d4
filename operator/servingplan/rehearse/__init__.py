"""The operator's own turns in a cluster in memory, on a clock that the caller moves.

    api_server.py  versions, lists, watches and faults of an API server
    patches.py     what it makes of an object by each way of writing
    parts.py       nodes, pods and pools as values
    objects.py     nodes, pods and pools in the words of the API
    api.py         the operator's ``Api``, with all that an API server refuses
    beside.py      the market, Prometheus, engines and gateway that the operator asks too
    cluster.py     controllers, a scheduler, kubelets, and the clock that moves them
    operator.py    the operator's reader, informers, turns and writer in it
    stage.py       the cluster of a plan, moved in time until the operator rests; what it costs
    spans.py       counts of requests by span of time
    run.py         a trace through that cluster, with events
    figures.py     what came of it, as JSON has it

The tests take the same turns in the same cluster. ``servingplan replay --operator`` sends a trace through it.
"""
