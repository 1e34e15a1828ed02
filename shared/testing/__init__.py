"""The pytest plugin: a real PostgreSQL for the run, a database per worker, a fresh organisation per test.

Loaded by the root ``conftest.py``; production code never imports this package (an import contract).
"""
