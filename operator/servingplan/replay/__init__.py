"""A trace of requests against a planned fleet, on a virtual clock.

    trace.py     rows of a log to arrivals in order, each with its class; what was repaired, and what no class covers
    generate.py  arrivals without a log: Poisson or gamma, from the plan's classes or a mix
    mixes.py     published mixes of requests
    pattern.py   the rate over time: the swing of a day, surges, launches
    fleet.py     the engines of a planned fleet, node by node
    rivals.py    fleets that other rules would rent
    gateway.py   which replica takes a request: by class weights, in turn, or by the fewest in flight
    events.py    nodes that are lost and come back, engines that are slow, requests that surge or begin
    sketch.py    percentiles of a stream in little memory
    run.py       the replay itself
    figures.py   what came of it, as JSON and reports have it

Pure and seeded: the same trace and seed give the same figures. Memory does not grow with the number of requests.
"""
