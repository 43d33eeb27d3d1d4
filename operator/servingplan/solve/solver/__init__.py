"""The adapter to HiGHS, its clock and its tolerances."""
