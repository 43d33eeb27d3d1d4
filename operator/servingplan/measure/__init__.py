"""Measure what a replica does: open arrivals at rising rates against any server with OpenAI's API, until it is full.

Effect: the network, and the event loop's clock, the only one here.

    request.py     one streamed request, and everything that can go wrong with it
    load.py        Poisson arrivals at one rate; who waits, who fails, when to stop
    figures.py     pure: samples to rates and times with their confidence intervals
    sweep.py       which rate comes next, where the knee is, what may be spent on finding it
"""
