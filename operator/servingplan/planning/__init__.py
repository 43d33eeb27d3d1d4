"""PURE. From the spec and what was observed to the planning question, and from its answer to a fleet."""
