"""Custom fields: an organisation's own typed fields on its records."""
