"""PURE. The parts of a turn; ``decide`` puts them in order."""
