"""Requests that come at a known rate, counted as a scraper would."""

import numpy

START = 1_700_000_000.0


def counted(rate, *, scrape, seconds, seed, phase=0.0):
    """Intervals of a Poisson stream; ``rate`` is requests/s as a function of the seconds since the start.

    Scrapes fall on multiples of ``scrape`` plus ``phase``; each interval's mean is the integral of the rate over it.
    """
    chance = numpy.random.default_rng(seed)
    edges = numpy.arange(phase, seconds + phase + 1e-9, scrape)
    fine = 20
    offsets = (numpy.arange(fine) + 0.5) * scrape / fine
    moments = edges[:-1, None] + offsets[None, :]
    means = numpy.vectorize(rate, otypes=[float])(moments).mean(axis=1) * scrape
    requests = chance.poisson(means)
    return [(START + float(end), float(scrape), float(count)) for end, count in zip(edges[1:], requests, strict=True)]
