"""Measures a replica: sends open arrivals at rising rates to any server with OpenAI's API, until it is full.

Its effects are the network and the event loop's clock, the only clock here.

    request.py     one streamed request, and everything that can go wrong with it
    load.py        Poisson arrivals at one rate; which requests wait or fail, when to stop
    figures.py     pure: from samples to rates and times with confidence intervals
    sweep.py       the next rate, the knee, and the bounds of the search
"""
