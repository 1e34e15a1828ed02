"""Mails: written with the transaction that causes them, encrypted, and sent by the worker afterwards."""
