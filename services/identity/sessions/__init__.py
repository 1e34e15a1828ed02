"""Sessions: a person signed in with a browser or a client that keeps cookies."""
