"""Exact limits from memory: what may be spent is debited before it is spent, a little at a time."""
