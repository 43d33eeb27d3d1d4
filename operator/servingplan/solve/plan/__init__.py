"""One plan: its copies, nodes, rates and what they are worth.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
