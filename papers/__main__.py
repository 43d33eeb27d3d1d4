"""`python -m papers`: re-run P2's tables and write their part of `docs/papers.md`."""

from papers.p2.tables import main

if __name__ == "__main__":
    main()
