"""``python -m servingplan``."""

from servingplan.cli import main

main()
