"""Makes the CustomResourceDefinition from the models of the API.

pydantic emits JSON Schema with references, null alternatives and closed objects; a structural schema allows none of
these. The conversion is pure. The contract tests check the result with a real API server.
"""

from __future__ import annotations

from typing import Any

import yaml

from servingplan.api import status_v1alpha1, v1alpha1

_KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "format",
)

DECIMAL = 'A whole number, or a decimal in quotes ("1.5").'
"""The end of the description of decimals, which have no type of their own in a schema."""

PRINTER_COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
    {"name": "503", "type": "string", "jsonPath": ".status.unanswered"},
    {"name": "Served", "type": "string", "jsonPath": ".status.served"},
    {"name": "Models", "type": "string", "jsonPath": ".status.models"},
    {"name": "GPUs", "type": "string", "jsonPath": ".status.gpus"},
    {"name": "$/h", "type": "string", "jsonPath": ".status.cost.spendPerHour"},
    {"name": "Budget", "type": "string", "jsonPath": ".status.cost.budgetPerHour"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Plan-$/h", "type": "string", "jsonPath": ".status.cost.perHour", "priority": 1},
    {"name": "Plan-Served", "type": "string", "jsonPath": ".status.plannedServed", "priority": 1},
    {"name": "Idle-GPUs", "type": "string", "jsonPath": ".status.idleGPUs", "priority": 1},
    {"name": "Caps", "type": "string", "jsonPath": ".status.caps", "priority": 1},
    {"name": "Mode", "type": "string", "jsonPath": ".status.mode", "priority": 1},
    {"name": "Hash", "type": "string", "jsonPath": ".status.planHash", "priority": 1},
    {"name": "Gap", "type": "string", "jsonPath": ".status.solver.gap", "priority": 1},
    {"name": "Solver", "type": "string", "jsonPath": ".status.solver.status", "priority": 1},
)

UNSEEN = {"observedGeneration": -1}
"""The status of a plan that no operator has seen: no generation of its spec. kstatus (Flux, Helm) and Argo CD take an object
without a status for one that is as it should be."""


def custom_resource_definition() -> dict[str, Any]:
    """The CRD of ``LLMServingPlan`` as an object for the API server."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{v1alpha1.PLURAL}.{v1alpha1.GROUP}"},
        "spec": {
            "group": v1alpha1.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": v1alpha1.KIND,
                "listKind": f"{v1alpha1.KIND}List",
                "plural": v1alpha1.PLURAL,
                "singular": v1alpha1.KIND.lower(),
                "shortNames": ["lsp"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": v1alpha1.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(PRINTER_COLUMNS),
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A plan for serving large language models: what to serve, on which GPUs, "
                            "for how much.",
                            "required": ["spec"],
                            "x-kubernetes-validations": list(v1alpha1.PLAN_RULES),
                            "properties": {
                                "spec": structural_schema(v1alpha1.PlanSpec.model_json_schema(by_alias=True)),
                                "status": {
                                    **structural_schema(
                                        status_v1alpha1.PlanStatus.model_json_schema(
                                            by_alias=True, mode="serialization"
                                        )
                                    ),
                                    "default": UNSEEN,
                                },
                            },
                        }
                    },
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The text of the CRD, as committed under ``crds/``."""
    header = "# Generated from operator/servingplan/api by `servingplan crd`; do not edit.\n"
    return header + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120)


def structural_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema from pydantic's: references resolved, nulls dropped, defaults and titles left out."""
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        name = str(node["$ref"]).rsplit("/", 1)[-1]
        converted = _convert(definitions[name], definitions)
        if "description" in node:
            converted["description"] = _one_line(node["description"])
        return converted
    if "x-kubernetes-int-or-string" in node:
        # For a number with a point the API server says only "must be of type integer,string".
        return {
            key: f"{_one_line(value)} {DECIMAL}" if key == "description" else value
            for key, value in node.items()
            if key not in ("title", "default")
        }
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a union of {len(options)} types has no structural schema: {node}")
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default", "title")}
        return _convert({**options[0], **rest}, definitions)
    out: dict[str, Any] = {key: node[key] for key in _KEPT if key in node}
    out.update({key: value for key, value in node.items() if key.startswith("x-kubernetes-")})
    if "const" in node:
        out["enum"] = [node["const"]]
    if "description" in out:
        out["description"] = _one_line(out["description"])
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            out[limit], out[bound] = node[bound], True
    if node.get("type") == "object":
        if "properties" in node:
            out["properties"] = {key: _convert(value, definitions) for key, value in node["properties"].items()}
            if node.get("required"):
                out["required"] = node["required"]
        elif isinstance(node.get("additionalProperties"), dict) and "x-kubernetes-preserve-unknown-fields" not in node:
            out["additionalProperties"] = _convert(node["additionalProperties"], definitions)
            if "maxProperties" in node:
                out["maxProperties"] = node["maxProperties"]
    if node.get("type") == "array":
        out["items"] = _convert(node["items"], definitions)
    return out


def _one_line(text: str) -> str:
    return " ".join(text.split())
