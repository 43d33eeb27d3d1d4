"""PURE. Makes a plan's status from the observation, the decision and its outcome."""
