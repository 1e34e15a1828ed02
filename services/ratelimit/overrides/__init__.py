"""Overrides: exceptions to a policy for the subjects that fit a pattern, for a while or for good."""
