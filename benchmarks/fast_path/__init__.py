"""What the service itself costs: everything but the model. See `python -m benchmarks.fast_path --help`."""
