"""Pure: the independent check of answers. See `entry`."""

from servingplan.verify.entry import Violation, verify

__all__ = ["Violation", "verify"]
