"""API keys: credentials of an organisation's programs."""
