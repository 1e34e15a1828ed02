"""`guardian`: the composition root, and the only place that knows every service."""
