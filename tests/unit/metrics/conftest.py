"""Metrics are told of the plans that the stories have."""

from tests.simulated.rates import steady_rates  # noqa: F401 (a fixture for all tests here)
