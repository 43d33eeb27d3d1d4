"""PURE. Measured demand: samples of Prometheus -> requests by interval -> rates to plan for."""
