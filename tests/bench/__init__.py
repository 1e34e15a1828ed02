"""Benches: ``make bench-<area>``. Each ends with one JSON line and with 1 when a bar does not hold."""
