"""`python -m papers.p2`: the tables of P2 with every choice of sizes, seeds and deadlines."""

from papers.p2.tables import main

if __name__ == "__main__":
    main()
