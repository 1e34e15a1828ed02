"""Which tests share a worker, and which come first.

The end-to-end tests that share a platform go by its mode, so that each is started once; the others among them,
which start their own, go one by one. They take longest and begin first. All others go by module.
"""

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_SHARED = r"tests/e2e/test_(?:crowd|edge\w*|fuzz|matrix|platform|split)\.py"
_MODE = re.compile(_SHARED + r"::.*\b(postgres|kafka|split|whole|apart)\b")
_LONGEST = ("tests/e2e/", "tests/cli/", "tests/deploy/", "tests/shared/events/")


class ByPlatform(LoadScopeScheduling):  # type: ignore[misc]
    """Scopes are platforms, single tests, modules."""

    def _split_scope(self, nodeid: str) -> str:
        if found := _MODE.match(nodeid):
            return found[1]
        return nodeid if nodeid.startswith("tests/e2e/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPlatform:
    """Ours, in the order of the collection."""
    config.option.loadscopereorder = False
    return ByPlatform(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, however many workers there are; those that leave most behind them last on a platform."""

    def order(item: pytest.Item) -> tuple[int, bool]:
        rank = next((n for n, folder in enumerate(_LONGEST) if item.nodeid.startswith(folder)), len(_LONGEST))
        return rank, "test_fuzz.py" in item.nodeid

    items.sort(key=order)
