"""Blocks that three heads or more are made of. What fewer need stands in the head's own file."""
