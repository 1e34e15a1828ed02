"""Plans: what the platform gives an organisation to begin with."""
