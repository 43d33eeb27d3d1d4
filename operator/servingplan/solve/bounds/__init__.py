"""How good a plan could be."""
