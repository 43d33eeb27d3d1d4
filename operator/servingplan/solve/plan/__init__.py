"""One plan: its copies, nodes, rates and the values of its levels."""
