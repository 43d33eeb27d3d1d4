"""A bare pytest leaves out what takes long; `EXHAUSTIVE=1`, which `make test` sets, runs it."""

import os

import pytest
from hypothesis import HealthCheck, settings

from servingplan.decide.replan import forget

# The same examples in every run; how fast the machine is decides nothing.
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _no_question_is_kept() -> None:
    """Tests change what questions are made of, such as the rates of replicas."""
    forget()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked slow, unless everything is asked for."""
    if os.environ.get("EXHAUSTIVE"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
