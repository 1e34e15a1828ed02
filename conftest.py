"""Loads the chassis' pytest plugins for every test, and how tests are shared among workers."""

import gc

pytest_plugins = ["shared.testing.plugin", "shared.testing.client", "shared.testing.kafka", "tests.distribution"]

gc.disable()


def pytest_collection_finish() -> None:
    """What was collected stays: looking for garbage in it would take a tenth of the run."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
