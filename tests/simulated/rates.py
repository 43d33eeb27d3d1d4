"""Stories count nodes: a replica does here what it did when they were written, whatever the profiles learn."""

import pytest

from servingplan.planning import shapes
from servingplan.profiles.estimate import Estimate

_REQUESTS_PER_SECOND = {
    ("L40S", 1): 6.19,
    ("L40S", 2): 8.16,
    ("L40S", 4): 6.66,
    ("H100-SXM-80GB", 1): 28.0,
    ("H100-SXM-80GB", 2): 41.1,
    ("H100-SXM-80GB", 4): 42.7,
    ("A100-SXM4-80GB", 1): 10.9,
    ("A100-SXM4-80GB", 2): 18.1,
    ("A100-SXM4-80GB", 4): 20.1,
}
"""Of one replica of llama-3.1-8b, by card and tensor-parallel size; for requests of these lengths."""
_CHAT = 500, 250
_SECONDS = 25.0
"""That such a request holds its slot."""
_UTILIZATION = (0.92, 0.95, 0.95, 0.95)
"""By number of copies."""
_PLANNED_SHARE = 0.7
"""Of the middle of the rate."""


@pytest.fixture(autouse=True, scope="module")
def steady_rates():
    """Estimates with these rates, in every test beside whose conftest this is imported."""
    real = shapes.estimate

    def steady(**asked):
        found = real(**asked)
        rate = _REQUESTS_PER_SECOND.get((asked["gpu"].name, asked["tensor_parallel"]))
        chat = (
            asked["model"].name.lower() == "llama-3.1-8b" and (asked["input_tokens"], asked["output_tokens"]) == _CHAT
        )
        if not isinstance(found, Estimate) or rate is None or not chat:
            return found
        times = {"batch": round(rate / _PLANNED_SHARE * _SECONDS), "slot_seconds": _SECONDS}
        return found.model_copy(update={"planned_requests_per_second": rate, **times})

    real_limited = shapes.limited

    def loaded(found, classes, steps, *, floor_seconds):
        answers = real_limited(found, classes, steps, floor_seconds=floor_seconds)
        return {
            name: found[name].model_copy(update={"utilization": _UTILIZATION}) if isinstance(item, Estimate) else item
            for name, item in answers.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "estimate", steady)
        patch.setattr(shapes, "limited", loaded)
        shapes.rates_inside_a_node.cache_clear()
        yield
    shapes.rates_inside_a_node.cache_clear()
