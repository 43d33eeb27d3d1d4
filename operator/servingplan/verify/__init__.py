"""PURE. The independent check of answers; see ``entry``."""

from servingplan.verify.entry import Violation, verify

__all__ = ["Violation", "verify"]
