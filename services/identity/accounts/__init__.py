"""Accounts: people, their passwords and addresses."""
