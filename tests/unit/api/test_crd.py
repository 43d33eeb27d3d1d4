"""The CRD in the repository and in the chart is the one that the models of the API make."""

from pathlib import Path

import pytest

from servingplan.api import models_v1alpha1, pools_v1alpha1, v1alpha1
from servingplan.api.crd import crd_yaml, custom_resource_definition, structural_schema
from servingplan.api.wire import Wire

ROOT = Path(__file__).parents[3]
FILE = "llmservingplans.servingplan.dev.yaml"


def schema():
    return custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(node, path=""):
    """Every field with its path."""
    for name, field in node.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from walk(field, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}{{}}")


@pytest.mark.parametrize("folder", ["crds", "charts/servingplan/crds"])
def test_the_committed_file_is_the_generated_one(folder):
    text = (ROOT / folder / FILE).read_text()
    assert text == crd_yaml(), f"{folder}/{FILE} is stale: write the output of `servingplan crd` into it"


def test_every_field_is_documented():
    assert [path for path, field in walk(schema()) if not field.get("description")] == []


def test_the_api_server_sets_no_defaults_but_the_status_of_a_plan_that_nobody_has_seen():
    assert [path for path, field in walk(schema()) if "default" in field] == [".status"]


def test_lists_and_strings_that_rules_may_read_are_bounded():
    spec = schema()["properties"]["spec"]
    unbounded = [
        path
        for path, field in walk(spec, ".spec")
        if (field.get("type") == "array" and "maxItems" not in field)
        or (field.get("type") == "string" and "enum" not in field and "maxLength" not in field)
        or (isinstance(field.get("additionalProperties"), dict) and "maxProperties" not in field)
    ]
    assert unbounded == []


def test_money_is_an_integer_or_a_decimal_string():
    price = dict(walk(schema()))[".spec.nodePools[].dollarsPerNodeHour"]
    assert price["x-kubernetes-int-or-string"] is True
    assert "type" not in price
    assert "anyOf" not in price, "the API server would say each wrong value four times"
    assert price["description"].endswith('A whole number, or a decimal in quotes ("1.5").')
    assert (price["minimum"], price["pattern"]) == (0, r"^[0-9]{1,12}(\.[0-9]{1,9})?$")


def test_each_rule_stands_in_the_schema_with_the_message_that_python_gives():
    def rules(node):
        yield from node.get("x-kubernetes-validations", ())
        for _, field in walk(node):
            yield from field.get("x-kubernetes-validations", ())
            yield from field.get("items", {}).get("x-kubernetes-validations", ())

    written = {rule["message"] for rule in rules(schema())}
    in_python = {
        rule.message
        for module in (v1alpha1, models_v1alpha1, pools_v1alpha1)
        for part in vars(module).values()
        if isinstance(part, type) and issubclass(part, Wire)
        for rule in part.rules
    }
    on_whole_plan = {rule["message"] for rule in v1alpha1.PLAN_RULES}
    of_scalars = {
        "must be greater than 0",
        "must be at most 1",
        "must be at least 0.5, which plans on the median, and at most 0.99",
    }
    assert written == in_python | on_whole_plan | of_scalars


def test_a_union_of_types_has_no_structural_schema():
    union = {"anyOf": [{"type": "string"}, {"type": "boolean"}]}
    with pytest.raises(ValueError, match="a union of 2 types"):
        structural_schema({"type": "object", "properties": {"either": union}})
