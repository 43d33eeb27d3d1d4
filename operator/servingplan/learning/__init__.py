"""PURE. Learning in service: from the figures of engines to factors that correct the profiles (``docs/learning.md``)."""
