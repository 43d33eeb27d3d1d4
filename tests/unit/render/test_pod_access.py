"""What a podTemplate asks for beyond its own container is refused unless the installation allows it by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.api.models_v1alpha1 import Model
from servingplan.render.pod_access import KINDS, refused_access, unknown_kinds

WORDS = ["spec", "containers", "securityContext", "capabilities", "add", "volumes", "hostPath", "sysctls", "ports"]
WORDS += ["livenessProbe", "lifecycle", "preStop", "httpGet", "tcpSocket", "host"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner),
    max_leaves=12,
)


def model(template, **engine):
    return Model.model_validate({"name": "m", "engine": {"podTemplate": template, **engine}})


def engine(**more):
    return {"spec": {"containers": [{"name": "engine", **more}]}}


ATTACKS = [
    ("hostNetwork", {"spec": {"hostNetwork": True}}, "spec.hostNetwork", True),
    ("hostPID", {"spec": {"hostPID": True}}, "spec.hostPID", True),
    ("hostIPC", {"spec": {"hostIPC": True}}, "spec.hostIPC", True),
    ("serviceAccountName", {"spec": {"serviceAccountName": "admin"}}, "spec.serviceAccountName", "admin"),
    ("serviceAccountName", {"spec": {"serviceAccount": "admin"}}, "spec.serviceAccount", "admin"),
    (
        "hostPath",
        {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}},
        "spec.volumes[v].hostPath.path",
        "/",
    ),
    ("privileged", engine(securityContext={"privileged": True}), "[engine].securityContext.privileged", True),
    (
        "privileged",
        {"spec": {"initContainers": [{"name": "i", "securityContext": {"privileged": True}}]}},
        "spec.initContainers[i].securityContext.privileged",
        True,
    ),
    (
        "capabilities",
        engine(securityContext={"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}),
        "securityContext.capabilities.add",
        "SYS_ADMIN",
    ),
    ("hostPort", engine(ports=[{"containerPort": 1, "hostPort": 2}]), "[engine].ports[1].hostPort", 2),
    ("procMount", engine(securityContext={"procMount": "Unmasked"}), "procMount", "Unmasked"),
    (
        "seccompProfile",
        {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
        "spec.securityContext.seccompProfile.type",
        "Unconfined",
    ),
    ("appArmorProfile", engine(securityContext={"appArmorProfile": {"type": "Unconfined"}}), "type", "Unconfined"),
    (
        "appArmorProfile",
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/engine": "unconfined"}}},
        "metadata.annotations[",
        "unconfined",
    ),
    (
        "hostProcess",
        {"spec": {"securityContext": {"windowsOptions": {"hostProcess": True}}}},
        "windowsOptions.hostProcess",
        True,
    ),
    (
        "seLinuxOptions",
        engine(securityContext={"seLinuxOptions": {"type": "spc_t"}}),
        "seLinuxOptions",
        {"type": "spc_t"},
    ),
    (
        "priorityClassName",
        {"spec": {"priorityClassName": "system-node-critical"}},
        "spec.priorityClassName",
        "system-node-critical",
    ),
    *(
        (
            "probeHost",
            {"spec": {containers: [{"name": "c", hook: {check: {"host": "169.254.169.254", "port": 80}}}]}},
            f"spec.{containers}[c].{hook}.{check}.host",
            "169.254.169.254",
        )
        for containers in ("containers", "initContainers", "ephemeralContainers")
        for hook in ("livenessProbe", "readinessProbe", "startupProbe")
        for check in ("httpGet", "tcpSocket")
    ),
    *(
        (
            "probeHost",
            {"spec": {containers: [{"name": "c", "lifecycle": {hook: {check: {"host": "10.0.0.1"}}}}]}},
            f"spec.{containers}[c].lifecycle.{hook}.{check}.host",
            "10.0.0.1",
        )
        for containers in ("containers", "initContainers", "ephemeralContainers")
        for hook in ("postStart", "preStop")
        for check in ("httpGet", "tcpSocket")
    ),
    (
        "sysctls",
        {"spec": {"securityContext": {"sysctls": [{"name": "kernel.x", "value": "1"}]}}},
        "sysctls",
        "kernel.x",
    ),
]


def test_every_kind_is_tried():
    assert {kind for kind, *_ in ATTACKS} == set(KINDS)


@pytest.mark.parametrize(("kind", "template", "where", "value"), ATTACKS)
def test_it_is_refused_with_its_field_and_what_to_do(kind, template, where, value):
    (error,) = refused_access(model(template), ())
    assert error.field.startswith("spec.models[m].engine.podTemplate.")
    assert where in error.field
    assert error.value == value
    assert error.advice.endswith(f"or have {kind} added to the chart's podAccess")


@pytest.mark.parametrize(("kind", "template", "where", "value"), ATTACKS)
def test_it_is_allowed_by_its_name_or_by_its_value_alone(kind, template, where, value):
    others = [item for item in KINDS if item != kind]
    assert refused_access(model(template), [kind]) == ()
    assert refused_access(model(template), [f"{kind}={value}"]) == ()
    assert len(refused_access(model(template), [*others, f"{kind}=another"])) == 1
    assert refused_access(model(template), None) == ()


def test_a_priority_class_in_a_field_of_its_own_is_an_access_too():
    asked = model({}, priorityClassName="serving")
    (error,) = refused_access(asked, ["privileged", "priorityClassName=batch"])
    assert (error.field, error.value) == ("spec.models[m].engine.priorityClassName", "serving")
    assert refused_access(asked, ["priorityClassName=serving"]) == ()
    critical = model({}, priorityClassName="system-node-critical")
    assert len(refused_access(critical, ["priorityClassName=serving"])) == 1


def test_an_ordinary_template_asks_for_nothing():
    template = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "runtimeClassName": "nvidia",
            "hostNetwork": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "token", "secret": {"secretName": "hf"}}],
            "containers": [
                {
                    "name": "engine",
                    "ports": [{"containerPort": 9000}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 9000, "host": ""}},
                    "lifecycle": {"preStop": {"httpGet": {"path": "/stop", "port": 9000}}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    assert refused_access(model(template), ()) == ()


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "other"]), JSON))
def test_a_template_of_any_form_is_read(template):
    refused_access(model(template), ())


PODS_OF_ANY_FORM = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {
                "containers": st.lists(
                    st.dictionaries(
                        st.sampled_from(["livenessProbe", "lifecycle", "securityContext", "ports"]), JSON, min_size=1
                    ),
                    min_size=1,
                    max_size=2,
                )
            }
        )
    }
)


@given(PODS_OF_ANY_FORM)
def test_containers_of_any_form_are_read(template):
    refused_access(model(template), ())


@given(
    st.recursive(st.just({"host": "x"}), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))
)
def test_a_host_in_a_probe_of_any_form_is_seen_where_the_kubelet_reads_it(check):
    found = refused_access(model(engine(livenessProbe={"httpGet": check})), ())
    assert bool(found) == (isinstance(check, dict) and "host" in check)


def test_a_list_that_names_no_kind_is_told():
    assert unknown_kinds(["privileged", "hostpath", "capabilities=IPC_LOCK", "x=y"]) == ["hostpath", "x=y"]
