"""Figures about speed, measured beside their alternatives in the same run: `make bench`.

Ratios are what counts: a busy machine slows both sides alike, since they take turns. Nothing is asserted.
"""
