"""What simulated nodes and pods do, as KWOK stages.

A pod that asks for GPUs, or carries ``READY_SECONDS_ANNOTATION``, behaves like a model server: it runs at once, is
Ready only after it has "loaded its weights", and takes a while to stop (never longer than its grace period). Every
other pod is Ready at once and stops at once; one that a Job owns succeeds at once.

Delays count from times that the API server keeps (``status.startTime``, ``metadata.deletionTimestamp``), not from the
last change of the pod: KWOK starts a stage's delay anew whenever its object changes, and whoever labels a loading pod
must not make it load longer. These times are whole seconds, and so are the delays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster.nodes import NOT_READY_ANNOTATION

READY_SECONDS_ANNOTATION = "kwok.servingplan.dev/ready-seconds"
STOP_SECONDS_ANNOTATION = "kwok.servingplan.dev/stop-seconds"
NEVER_READY_PERCENT_ANNOTATION = "kwok.servingplan.dev/never-ready-percent"
NEVER_READY_REASON = "NeverReady"


@dataclass(frozen=True)
class PodTimes:
    """How model servers behave where a pod's annotations do not say otherwise."""

    ready_seconds: int = 20
    stop_seconds: int = 5
    never_ready_percent: int = 0
    """Chance, drawn once per pod at its start, that it hangs for ever; 10 for one in ten."""


_STARTING_POD = """\
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ index . 0 | Quote }}
hostIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
{{ $network := or .spec.hostNetwork false }}
{{ with PodIPsWith .spec.nodeName $network .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
phase: Running
startTime: {{ Now | Quote }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state:
    terminated: {exitCode: 0, reason: Completed, startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}}
{{ end }}
"""

_NODE_CONDITIONS = """\
{{ $now := Now }}
{{ $node := . }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ or $node.metadata.creationTimestamp $now | Quote }}
{{ end }}
"""

_NEW_NODE = (
    _NODE_CONDITIONS
    + """\
addresses:
{{ with NodeIP }}
- {type: InternalIP, address: {{ . | Quote }}}
{{ end }}
- {type: Hostname, address: {{ .metadata.name | Quote }}}
{{ $allocatable := .status.allocatable }}
{{ with $allocatable }}
allocatable:
  {{ YAML . 1 }}
{{ end }}
{{ with or .status.capacity $allocatable }}
capacity:
  {{ YAML . 1 }}
{{ end }}
nodeInfo:
  architecture: amd64
  operatingSystem: linux
  bootID: ""
  containerRuntimeVersion: kwok-{{ Version }}
  kernelVersion: kwok-{{ Version }}
  kubeletVersion: kwok-{{ Version }}
  kubeProxyVersion: kwok-{{ Version }}
  machineID: ""
  osImage: ""
  systemUUID: ""
phase: Running
"""
)

_FAILED_NODE = """\
conditions:
- type: Ready
  status: "False"
  reason: KubeletNotReady
  message: told to fail
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
"""

_NOT_DELETED = (".metadata.deletionTimestamp", "DoesNotExist")
_READY = '.status.conditions[]? | select(.type == "Ready")'


def stages(times: PodTimes) -> list[dict[str, Any]]:
    """All stages, as KWOK's ``Stage`` objects."""
    ready_seconds = _number(READY_SECONDS_ANNOTATION, times.ready_seconds)
    stop_seconds = _number(STOP_SECONDS_ANNOTATION, times.stop_seconds)
    never_ready = _number(NEVER_READY_PERCENT_ANNOTATION, times.never_ready_percent)
    asks_gpus = 'any(.spec.containers[]; .resources.requests["nvidia.com/gpu"] != null)'
    is_model_server = f'({asks_gpus} or .metadata.annotations["{READY_SECONDS_ANNOTATION}"] != null)'

    not_failed = (_annotation(NOT_READY_ANNOTATION), "NotIn", "true")
    pending = (_NOT_DELETED, (".status.phase", "In", "Pending"))
    quick = (is_model_server, "In", "false")
    slow = (is_model_server, "In", "true")
    running_job = ('if .status.phase == "Running" then .metadata.ownerReferences[]?.kind else empty end', "In", "Job")
    ends_at = (
        "(.metadata.deletionTimestamp | fromdate) as $end | (.metadata.deletionGracePeriodSeconds // 0) as $grace | "
        f"[$end, $end - $grace + {stop_seconds}] | min | todate"
    )
    return [
        _stage("node-start", "Node", [(f"{_READY} | .status", "NotIn", "True"), not_failed], _status(_NEW_NODE)),
        _stage(
            # Leases tell that a node lives; its status only has to be renewed now and then, as kubelets do.
            "node-heartbeat",
            "Node",
            [(f"{_READY} | .status", "In", "True"), not_failed],
            _status(_NODE_CONDITIONS),
            delay={"durationMilliseconds": 300_000, "jitterDurationMilliseconds": 360_000},
        ),
        _stage(
            "node-fail",
            "Node",
            [(f"{_READY} | .status", "In", "True"), (_annotation(NOT_READY_ANNOTATION), "In", "true")],
            _status(_FAILED_NODE),
        ),
        _stage("pod-start", "Pod", [*pending, quick], _status(_STARTING_POD + _pod_readiness(ready=True))),
        _stage(
            "model-server-start",
            "Pod",
            [*pending, slow],
            _status(_STARTING_POD + _pod_readiness(ready=False, reason="ContainersNotReady")),
            weightFrom=_jq(f"100 - {never_ready} | tostring"),
        ),
        _stage(
            "model-server-hang",
            "Pod",
            [*pending, slow],
            _status(_STARTING_POD + _pod_readiness(ready=False, reason=NEVER_READY_REASON)),
            weightFrom=_jq(f"{never_ready} | tostring"),
        ),
        _stage(
            "model-server-ready",
            "Pod",
            [_NOT_DELETED, (".status.phase", "In", "Running"), (f"{_READY} | .reason", "In", "ContainersNotReady")],
            _status(_pod_readiness(ready=True)),
            delay={"durationFrom": _jq(f"(.status.startTime | fromdate) + {ready_seconds} | todate")},
        ),
        _stage("job-pod-succeed", "Pod", [_NOT_DELETED, running_job], _status(_SUCCEEDED_POD)),
        _stage(
            "model-server-stop",
            "Pod",
            [(".metadata.deletionTimestamp", "Exists"), slow],
            {"delete": True},
            delay={"durationFrom": _jq(ends_at)},
        ),
        _stage("pod-stop", "Pod", [(".metadata.deletionTimestamp", "Exists"), quick], {"delete": True}),
    ]


def write(path: Path, times: PodTimes) -> Path:
    """Write the stages as a configuration file for ``kwok --config``."""
    path.write_text(yaml.safe_dump_all(stages(times), sort_keys=False))
    return path


def _stage(name: str, kind: str, when: list[tuple[str, ...]], step: dict[str, Any], **more: Any) -> dict[str, Any]:
    expressions = [
        {"jq": {"key": key, "operator": operator, **({"values": list(values)} if values else {})}}
        for key, operator, *values in when
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "steps": [step],
            **more,
        },
    }


def _status(template: str) -> dict[str, Any]:
    return {"patch": {"subresource": "status", "root": "status", "template": template}}


def _annotation(name: str) -> str:
    return f'.metadata.annotations["{name}"]'


def _jq(expression: str) -> dict[str, Any]:
    return {"jq": {"expression": expression}}


def _number(annotation: str, default: int) -> str:
    return f'({_annotation(annotation)} // "{default}" | tonumber)'


def _pod_readiness(*, ready: bool, reason: str | None = None) -> str:
    status = str(ready)
    why = f"  reason: {reason}\n" if reason else ""
    conditions = "conditions:\n- type: Initialized\n  status: 'True'\n  lastTransitionTime: {{ Now | Quote }}\n"
    for condition in ("ContainersReady", "Ready"):
        # A merge patch keeps what it does not name: null takes an earlier reason away.
        conditions += f"- type: {condition}\n  status: '{status}'\n{why or '  reason: null\n'}"
        conditions += "  lastTransitionTime: {{ Now | Quote }}\n"
    if ready:
        conditions += (
            "{{ range .spec.readinessGates }}- type: {{ .conditionType | Quote }}\n  status: 'True'\n{{ end }}"
        )
    return (
        conditions
        + f"""
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  ready: {status.lower()}
  started: {status.lower()}
  restartCount: 0
  state:
    running: {{startedAt: {{{{ or $.status.startTime Now | Quote }}}}}}
{{{{ end }}}}
"""
    )


_SUCCEEDED_POD = """\
phase: Succeeded
conditions:
- {type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{ Now | Quote }}}
- {type: ContainersReady, status: "False", reason: PodCompleted, lastTransitionTime: {{ Now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    running: null
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ or $.status.startTime Now | Quote }}
      finishedAt: {{ Now | Quote }}
{{ end }}
"""
