"""Contacts: the people an organisation deals with."""
