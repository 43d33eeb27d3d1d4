"""Ways to find plans."""
