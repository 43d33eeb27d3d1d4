"""A bare pytest leaves out what takes long; `EXHAUSTIVE=1`, which `make test` sets, runs it."""

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked slow, unless everything is asked for."""
    if os.environ.get("EXHAUSTIVE"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
