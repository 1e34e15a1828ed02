"""What runs the platform's outside parts: the embedded PostgreSQL, scripts, container files."""
