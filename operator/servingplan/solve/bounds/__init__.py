"""How good a plan could be.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
