"""How long a call waits for the database, and what is the database's fault."""

PATIENCE_SECONDS = 0.05
"""After so long a call is decided without the database."""
TURNS = 8
"""So many turns of the event loop an answer takes from the socket to who waits. A busy process gives it that time before
it blames the database."""
