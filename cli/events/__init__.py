"""``guardian events``: look at what happened, at what failed, and have it handled again."""
