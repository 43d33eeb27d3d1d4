"""Renders the ResourceClaimTemplate (``resource.k8s.io/v1``) of a kind of replica whose GPUs are devices.

Each pod gets a claim of its own for the GPUs that it needs, of one DeviceClass. A claim is allocated on the pod's node, so the
GPUs of a tensor-parallel group are in one node without more being said. What the claim asks for stands in an annotation of the
pod's template, and so in the name of the Deployment: a template of one name never changes, which the API server would refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from servingplan.api.pools_v1alpha1 import Dra
from servingplan.model import names
from servingplan.model.fleet import ReplicaSet
from servingplan.model.world import PlanObject

CLAIM = "gpus"
"""The name of the claim in its pod, and of the only request in the claim."""

Json = dict[str, Any]


def asked(dra: Dra, gpus: int) -> str:
    """The text of the annotation of pods that ask for so many devices of the pool each."""
    devices = {"attributes": dra.asked, "count": gpus, "deviceClass": dra.device_class}
    return json.dumps(devices, sort_keys=True, separators=(",", ":"))


def asked_in(template: Mapping[str, Any] | None) -> Json | None:
    """What the claims of a template's pods ask for; None if they have none, or if the annotation, which people can edit, is not
    what ``asked`` writes. All pods of a group ask for the same."""
    pod = (template or {}).get("leaderTemplate") or template or {}
    text = ((pod.get("metadata") or {}).get("annotations") or {}).get(names.DEVICES_ANNOTATION)
    try:
        found = json.loads(str(text))
        well = isinstance(found["attributes"], dict) and isinstance(found["count"], int) and bool(found["deviceClass"])
    except (TypeError, ValueError, KeyError):
        return None
    return found if well else None


def claim_of(template: Mapping[str, Any], workload: str) -> Json:
    """What is merged into a pod template so that its claim is made from the ResourceClaimTemplate with the workload's name;
    empty for pods without a claim."""
    pod = template.get("leaderTemplate") or template
    claims = (pod.get("spec") or {}).get("resourceClaims") or ()
    if CLAIM not in {item.get("name") for item in claims}:
        return {}
    return {"spec": {"resourceClaims": [{"name": CLAIM, "resourceClaimTemplateName": workload}]}}


def claim_template(*, plan: PlanObject, replica_set: ReplicaSet, devices: Json, labels: Json, owner: Json) -> Json:
    """The ResourceClaimTemplate of a kind of replica. By their labels its claims tell whose they are."""
    request: Json = {
        "deviceClassName": devices["deviceClass"],
        "allocationMode": "ExactCount",
        "count": devices["count"],
    }
    if devices["attributes"]:
        request["selectors"] = [
            {"cel": {"expression": _has(name, value)}} for name, value in sorted(devices["attributes"].items())
        ]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": names.CLAIM_TEMPLATE,
        "metadata": {
            "name": replica_set.deployment,
            "namespace": plan.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "metadata": {"labels": {name: labels[name] for name in (names.PLAN_LABEL, names.DEPLOYMENT_LABEL)}},
            "spec": {"devices": {"requests": [{"name": CLAIM, "exactly": request}]}},
        },
    }


def _has(name: str, value: str) -> str:
    """The CEL expression that a device has an attribute with this text.

    It asks first whether the attribute is there: to ask a device for a value that it lacks is an error, which ends the
    scheduling of the pod.
    """
    domain, _, short = name.partition("/")
    attributes = f"device.attributes[{json.dumps(domain)}]"
    return f"{json.dumps(short)} in {attributes} && {attributes}[{json.dumps(short)}] == {json.dumps(value)}"
