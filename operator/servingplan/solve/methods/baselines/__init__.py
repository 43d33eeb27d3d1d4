"""Methods to compare with.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
