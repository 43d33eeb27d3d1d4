"""PURE. Measured demand: from Prometheus samples to requests by interval, and from these to rates to plan for."""
