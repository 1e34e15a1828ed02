"""Policies: an organisation's own limits, beside those of its plan."""
