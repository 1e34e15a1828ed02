"""Loads the chassis' pytest plugin for every test."""

pytest_plugins = ["shared.testing.plugin", "shared.testing.client", "shared.testing.kafka"]
