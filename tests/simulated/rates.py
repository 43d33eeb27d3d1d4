"""Stories count nodes: a replica does here what it did when they were written, whatever the profiles learn."""

import pytest

from servingplan.profiles import replicas
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
"""The rates of one replica of llama-3.1-8b, by card and tensor-parallel size; for requests of these lengths."""
_CHAT = 500, 250
_SECONDS = 25.0
"""The seconds for which such a request holds its slot."""
_UTILIZATION = (0.92, 0.95, 0.95, 0.95)
"""The utilization by number of copies."""
_PLANNED_SHARE = 0.7
"""The planned rate as a part of the middle of the rate."""


@pytest.fixture(autouse=True, scope="module")
def steady_rates():
    """Estimates with these rates, in every test beside whose conftest this is imported."""
    real, real_limits = replicas.unlimited, replicas.all_limited

    def steady(made, classes, **how):
        found = real(made, classes, **how)
        rate = _REQUESTS_PER_SECOND.get((made.gpu.name, made.tensor_parallel))
        if rate is None or made.model.name.lower() != "llama-3.1-8b":
            return found
        times = {"batch": round(rate / _PLANNED_SHARE * _SECONDS), "slot_seconds": _SECONDS}
        steadied = {
            item.name: answer.model_copy(update={"planned_requests_per_second": rate, **times})
            for item in classes
            if (item.input_tokens, item.output_tokens) == _CHAT and isinstance(answer := found[item.name], Estimate)
        }
        return found | steadied

    def loaded(asked):
        return [
            {
                name: one.found[name].model_copy(update={"utilization": _UTILIZATION})
                if isinstance(item, Estimate)
                else item
                for name, item in answers.items()
            }
            for one, answers in zip(asked, real_limits(asked), strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "unlimited", steady)
        patch.setattr(replicas, "all_limited", loaded)
        replicas.forget()
        yield
    replicas.forget()
