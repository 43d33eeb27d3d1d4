"""The dashboard in the types that Grafana publishes: a field that they do not know is lost on the way through them."""

import copy
import json
from pathlib import Path

import pytest

dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="run `make setup`")
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: E402

DASHBOARD = json.loads((Path(__file__).parents[3] / "charts" / "servingplan" / "files" / "dashboard.json").read_text())
BEYOND_THE_TYPES = {
    *(("annotations", "list", field) for field in ("step", "target", "titleFormat", "textFormat", "tagKeys")),
    ("templating", "list", "definition"),
}
"""Of the Prometheus data source, which reads them by itself; and what Grafana's editor writes beside a variable's query."""


@pytest.fixture(scope="module", autouse=True)
def panel_types():
    """Makes the options of each type of panel, and Prometheus' queries, known."""
    register_default_plugins()


def lost(given, path=()):
    """Paths, without the numbers of lists, of what does not come back as it was."""
    back = json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(copy.deepcopy(given))))
    return set(_differences(given, back, path))


def _differences(given, back, path):
    if isinstance(given, dict) and isinstance(back, dict):
        for key, value in given.items():
            yield from _differences(value, back.get(key), (*path, key))
    elif isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        for one, other in zip(given, back, strict=True):
            yield from _differences(one, other, path)
    elif given != back:
        yield path


def test_grafana_knows_every_field():
    assert {path[:3] for path in lost(DASHBOARD)} == BEYOND_THE_TYPES


@pytest.mark.parametrize("place", ["options", "fieldConfig", "targets", "panel"])
def test_a_misspelt_field_would_be_found(place):
    changed = copy.deepcopy(DASHBOARD)
    panel = next(item for item in changed["panels"] if item["type"] == "timeseries")
    where = {
        "options": panel["options"]["legend"],
        "fieldConfig": panel["fieldConfig"]["defaults"]["custom"],
        "targets": panel["targets"][0],
        "panel": panel,
    }[place]
    where["lineWidht"] = 1
    assert "lineWidht" in {path[-1] for path in lost(changed)}
