"""Signing keys: what the requests of an API key are signed with."""
