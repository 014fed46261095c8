"""What the package costs beside raw Trio: `python -m benchmarks --help`."""
