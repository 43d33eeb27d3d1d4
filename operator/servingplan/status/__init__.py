"""PURE. What a plan's status says: from what was seen, what was decided, and what became of it."""
