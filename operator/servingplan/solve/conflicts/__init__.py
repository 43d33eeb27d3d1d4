"""Why there is no plan, and what would end that.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
