"""Signatures: what is wrong with a signed request."""
