"""The parts of `python -m benchmarks.fuse`."""
