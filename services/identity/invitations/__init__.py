"""Invitations: how people come to belong to an organisation."""
