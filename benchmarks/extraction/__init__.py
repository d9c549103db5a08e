"""Parts of `benchmarks.extract` and `benchmarks.faults`: made corpora, models that sleep or die, and the targets."""
