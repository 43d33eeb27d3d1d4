"""PURE. The parts of a turn whose order ``decide`` knows."""
