"""The question as a mathematical program."""
