"""The targets of the store about reading, writing, opening and memory: see benchmarks/store.py."""
