"""Waiting for rights: the API server has a binding some time before its authorizer knows of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubernetes import client

_GRANT_SECONDS = 120
_POLL_SECONDS = 0.05


def wait_until_granted(api: client.ApiClient, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Until the ServiceAccounts that are bound here may do all that the roles say that are here too."""
    reviews = client.AuthorizationV1Api(api)
    deadline = time.monotonic() + _GRANT_SECONDS
    for review in _reviews(manifests):
        while not _is_granted(reviews, review):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not granted within {_GRANT_SECONDS} s: {review.spec}")
            time.sleep(_POLL_SECONDS)


def _is_granted(reviews: client.AuthorizationV1Api, review: client.V1SubjectAccessReview) -> bool:
    status = reviews.create_subject_access_review(review).status
    assert status is not None
    return bool(status.allowed)


def _reviews(manifests: Sequence[Mapping[str, Any]]) -> Iterator[client.V1SubjectAccessReview]:
    roles = {_key(item, item["kind"], item["metadata"]["name"]): item for item in manifests}
    for binding in manifests:
        if "roleRef" not in binding:
            continue
        role = roles.get(_key(binding, binding["roleRef"]["kind"], binding["roleRef"]["name"]))
        for rule in (role or {}).get("rules") or ():
            for subject in binding["subjects"]:
                user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                namespace = binding["metadata"].get("namespace")
                for attributes in _attributes(rule, namespace):
                    yield client.V1SubjectAccessReview(
                        spec=client.V1SubjectAccessReviewSpec(user=user, resource_attributes=attributes)
                    )


def _key(item: Mapping[str, Any], kind: str, name: str) -> tuple[str, str, str | None]:
    return kind, name, None if kind.startswith("Cluster") else item["metadata"].get("namespace")


def _attributes(rule: Mapping[str, Any], namespace: str | None) -> Iterator[client.V1ResourceAttributes]:
    for group in rule.get("apiGroups", ()):
        for whole in rule.get("resources", ()):
            resource, _, subresource = whole.partition("/")
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames") or (None,):
                    yield client.V1ResourceAttributes(
                        group=group,
                        resource=resource,
                        subresource=subresource,
                        verb=verb,
                        namespace=namespace,
                        name=name,
                    )
