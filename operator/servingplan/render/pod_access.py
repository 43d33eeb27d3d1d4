"""Finds the accesses that a plan's ``engine`` asks for beyond its own container: the host, privileges, another account, a
priority over the pods of others.

An editor of plans may have no right to create pods, and the operator creates them for all. So this module refuses service
accounts, priority classes and everything that the Pod Security Standard "baseline" refuses
(kubernetes.io/docs/concepts/security/pod-security-standards), unless the installation allows it by name. A pod of a priority
class may have pods of lower ones evicted, in any namespace (kubernetes.io/docs/concepts/scheduling-eviction).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from servingplan.api.models_v1alpha1 import Model
from servingplan.errors import InputError

KINDS = (
    "appArmorProfile",
    "capabilities",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPath",
    "hostPort",
    "hostProcess",
    "priorityClassName",
    "privileged",
    "probeHost",
    "procMount",
    "seLinuxOptions",
    "seccompProfile",
    "serviceAccountName",
    "sysctls",
)
"""The accesses that an installation may allow: ``KIND``, or ``KIND=VALUE`` for one value, as ``hostPath=/dev/infiniband``."""
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})

Asked = tuple[str, str, Any]
"""An access: its kind, its path below ``engine``, and its value."""


def refused_access(model: Model, allowed: Iterable[str] | None) -> tuple[InputError, ...]:
    """The errors for accesses that the model's ``engine`` asks for and the installation does not allow; None allows all."""
    if allowed is None:
        return ()
    known = frozenset(allowed)
    field = f"spec.models[{model.name}].engine"
    asked = [(kind, f"podTemplate.{where}", value) for kind, where, value in _asked(model.engine.pod_template)]
    if model.engine.priority_class_name is not None:
        asked.append(("priorityClassName", "priorityClassName", model.engine.priority_class_name))
    return tuple(
        InputError(
            f"{field}.{where}",
            value,
            f"is not allowed by this installation; remove it, or have {kind} added to the chart's podAccess",
        )
        for kind, where, value in asked
        if kind not in known and f"{kind}={value}" not in known
    )


def unknown_kinds(allowed: Iterable[str]) -> list[str]:
    """The entries of an installation's list without effect, since they name no kind."""
    return sorted(item for item in allowed if item.partition("=")[0] not in KINDS)


def _asked(template: Any) -> Iterator[Asked]:
    """All accesses in a template, which may have any form, also one that the API server refuses."""
    pod = _map(_map(template).get("spec"))
    for kind in ("hostIPC", "hostNetwork", "hostPID"):
        if pod.get(kind) not in _NOTHING:
            yield kind, f"spec.{kind}", pod[kind]
    for key in ("serviceAccountName", "serviceAccount"):
        if pod.get(key) not in _NOTHING:
            yield "serviceAccountName", f"spec.{key}", pod[key]
    if pod.get("priorityClassName") not in _NOTHING:
        yield "priorityClassName", "spec.priorityClassName", pod["priorityClassName"]
    for item in _maps(pod.get("volumes")):
        if "hostPath" in item:
            path = _map(item["hostPath"]).get("path")
            yield "hostPath", f"spec.volumes[{item.get('name')}].hostPath.path", path
    for key, value in _map(_map(_map(template).get("metadata")).get("annotations")).items():
        if str(key).startswith(_APPARMOR) and value != "runtime/default":
            yield "appArmorProfile", f"metadata.annotations[{key}]", value
    yield from _of_context(_map(pod.get("securityContext")), "spec.securityContext")
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for item in _maps(pod.get(kind)):
            where = f"spec.{kind}[{item.get('name')}]"
            yield from _of_context(_map(item.get("securityContext")), f"{where}.securityContext")
            for port in _maps(item.get("ports")):
                if port.get("hostPort") not in _NOTHING:
                    yield "hostPort", f"{where}.ports[{port.get('containerPort')}].hostPort", port["hostPort"]
            yield from _of_hooks(item, where)


def _of_hooks(container: dict[Any, Any], where: str) -> Iterator[Asked]:
    """The hosts that the kubelet would ask from the node, which the pod itself may not reach (KEP-4940)."""
    for hook in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"):
        handler: Any = container
        for key in hook.split("."):
            handler = _map(handler).get(key)
        for check in ("httpGet", "tcpSocket"):
            host = _map(_map(handler).get(check)).get("host")
            if host not in _NOTHING:
                yield "probeHost", f"{where}.{hook}.{check}.host", host


def _of_context(context: dict[Any, Any], where: str) -> Iterator[Asked]:
    """The accesses in the security context of a pod or a container."""
    if context.get("privileged") not in _NOTHING:
        yield "privileged", f"{where}.privileged", context["privileged"]
    added = _map(context.get("capabilities")).get("add")
    for value in added if isinstance(added, list) else () if added in _NOTHING else (added,):
        yield "capabilities", f"{where}.capabilities.add", value
    if context.get("procMount") not in (None, "Default"):
        yield "procMount", f"{where}.procMount", context["procMount"]
    for kind in ("seccompProfile", "appArmorProfile"):
        if _map(context.get(kind)).get("type") not in (None, "RuntimeDefault", "Localhost"):
            yield kind, f"{where}.{kind}.type", _map(context[kind])["type"]
    if _map(context.get("windowsOptions")).get("hostProcess") not in _NOTHING:
        yield "hostProcess", f"{where}.windowsOptions.hostProcess", context["windowsOptions"]["hostProcess"]
    if context.get("seLinuxOptions") not in _NOTHING:
        yield "seLinuxOptions", f"{where}.seLinuxOptions", context["seLinuxOptions"]
    for item in _maps(context.get("sysctls")):
        yield "sysctls", f"{where}.sysctls", item.get("name")


def _map(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> Iterator[dict[Any, Any]]:
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
