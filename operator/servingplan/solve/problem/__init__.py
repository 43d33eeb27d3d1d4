"""The question as a mathematical program.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""
