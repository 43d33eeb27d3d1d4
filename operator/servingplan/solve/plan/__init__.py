"""One plan: its copies, nodes, rates and what they are worth."""
