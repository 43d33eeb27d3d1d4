"""Methods for comparison, from the papers and from autoscalers."""
