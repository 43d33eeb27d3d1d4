"""What a replica can do: rates, latencies, and how far to trust them.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. The planner asks one question many times,
``estimate.estimate``: at what rate does one replica (model, precision, GPU, tensor and pipeline parallel size) serve
one class of requests within its SLO? The answer names its source and its error band.

    catalogue.py   GPUs and model shapes by name, from ``data/`` or given inline
    roofline.py    the planning formulas and their fitted constants
    measured.py    measurements, and the correction that they put on the roofline
    estimate.py    fit in memory, walk the batch up to the SLO, say where the number comes from
    queueing.py    the utilisation at which a percentile holds, by number of copies

Everything here is pure; the packaged data are read once.
"""
