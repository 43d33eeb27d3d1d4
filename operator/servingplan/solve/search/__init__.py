"""Ways to find plans.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
