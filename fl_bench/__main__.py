"""`python -m fl_bench` is `fl-bench`."""

from fl_bench.cli import main

if __name__ == "__main__":  # and not in the processes that Python's multiprocessing starts
    main()
