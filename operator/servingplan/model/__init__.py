"""The nouns of the planner, as frozen values; imports nothing else of servingplan.

Place in the flow: observe -> **model** -> solve -> render -> apply -> status. `question` holds what the solver is asked,
`answer` what it replies; both are the JSON documents that `servingplan solve` reads and prints.
"""
