"""``python -m servingplan``."""

from servingplan.cli import main

if __name__ == "__main__":  # the processes of searches import this module too
    main()
