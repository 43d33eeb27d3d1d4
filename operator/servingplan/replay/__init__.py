"""A trace of requests against a planned fleet, on a virtual clock.

    trace.py     rows of a log to arrivals in order, each with its class; what was repaired, and what no class covers
    generate.py  arrivals without a log: Poisson or gamma, with the shape of a day
    fleet.py     the engines of a planned fleet, node by node
    rivals.py    fleets that other rules would rent
    gateway.py   which replica takes a request: by class weights, in turn, or by the fewest in flight
    events.py    nodes that are lost and come back, engines that are slow
    sketch.py    percentiles of a stream in little memory
    run.py       the replay itself
    figures.py   what came of it, as JSON and reports have it

Pure and seeded: the same trace and seed give the same figures. Memory does not grow with the number of requests.
"""
