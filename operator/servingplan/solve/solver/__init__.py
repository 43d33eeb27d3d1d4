"""The adapter to HiGHS, its clock and its tolerances.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
