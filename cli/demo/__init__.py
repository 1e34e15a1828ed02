"""The demonstration: two invented organisations, and a year of history for the first one.

``content`` says what happened, the same on every machine; ``load`` makes it happen through the services.
"""
