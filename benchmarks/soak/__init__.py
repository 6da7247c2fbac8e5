"""Load for minutes or hours, with everything that goes wrong in them. See `python -m benchmarks.soak --help`."""
