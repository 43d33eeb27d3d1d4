"""Turns are taken by the thousand here: what a gateway's files look like is rendered once per document."""

import json

import pytest

from servingplan.routing import document
from servingplan.status.conclude import CANNOT_BE_FORETOLD
from tests.simulated.rates import steady_rates  # noqa: F401 (a fixture for all tests here)

_RENDERED = {}


@pytest.fixture(autouse=True)
def _gateway_files_rendered_once(monkeypatch):
    render = document.envoy_files

    def remembered(document, *, namespace):
        key = json.dumps([document, namespace], sort_keys=True)
        if key not in _RENDERED:
            _RENDERED[key] = render(document, namespace=namespace)
        return _RENDERED[key]

    monkeypatch.setattr(document, "envoy_files", remembered)


@pytest.fixture(autouse=True)
def _every_look_ahead_succeeds(caplog):
    yield
    assert not [
        record.getMessage() for record in caplog.get_records("call") if CANNOT_BE_FORETOLD in record.getMessage()
    ]
