"""Estimates what a replica can do: rates and latencies, with their error bands.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. The planner asks one question many times,
``estimate.estimate``: at what rate does one replica (model, precision, GPU, tensor and pipeline parallel size) serve
one class of requests within its SLO? The answer names its source and its error band.

    catalogue.py   GPUs and model shapes by name, from ``data/`` or given inline
    roofline.py    the planning formulas and their fitted constants
    measured.py    measurements, and the correction of the prediction that they give
    estimate.py    checks the fit in memory, raises the batch up to the SLO, and names the source of the number
    latency.py     the utilisation at which a percentile of requests keeps the limits, by number of copies

Everything here is pure; the packaged data are read once.
"""
