"""The path of a pool's size is its kind's or its owner's, not the plan's."""

import re
from pathlib import Path

import pytest

from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.table import KINDS, kind_at, kind_key, path_of, reads_annotation


def found(kind="NodePool.karpenter.sh", *, written=None, owners=None, scalable=False):
    annotations = {} if owners is None else {"servingplan.dev/replicas-path": owners}
    return path_of(kind, "p", annotations, written=written, scalable=scalable)


@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_need_no_path_and_take_their_own(kind):
    own = f".{'.'.join(KINDS[kind].path)}"
    for written in (None, own):
        path, problem = found(kind, written=written)
        assert (path, problem) == (KINDS[kind].path, None)
        assert kind_at(kind, path) is KINDS[kind]


@pytest.mark.parametrize("path", [".spec.weight", ".spec.replicas.x", ".spec.template.spec.expireAfter"])
def test_a_plan_does_not_choose_the_path(path):
    keys, problem = found(written=path)
    assert keys == ("spec", "replicas")
    assert "is not the path of the size of NodePool p, which is .spec.replicas; leave it out" in problem
    assert "servingplan.dev/replicas-path" in problem


def test_the_owner_chooses_it_and_the_plan_may_only_agree():
    kind = "Fleet.example.com"
    assert found(kind, owners=".spec.count") == (("spec", "count"), None)
    assert found(kind, written=".spec.count", owners=".spec.count") == (("spec", "count"), None)
    keys, problem = found(kind, written=".spec.replicas", owners=".spec.count")
    assert keys == ("spec", "count")
    assert "which is .spec.count" in problem


def test_a_known_kind_with_a_path_of_its_owner_is_read_as_any_other():
    keys, _ = found(owners=".spec.limit")
    kind = kind_at("NodePool.karpenter.sh", keys)
    assert (type(kind), kind.path) == (AnyPath, ("spec", "limit"))


@pytest.mark.parametrize("path", [None, ".spec.count"])
def test_of_another_kind_nobody_knows_it(path):
    keys, problem = found("Fleet.example.com", written=path)
    assert keys is None
    assert "the object's owner must write it into its annotation servingplan.dev/replicas-path" in problem


def test_a_kind_that_serves_scale_has_the_usual_path_unless_its_owner_says_another():
    assert found("Fleet.example.com", scalable=True) == (("spec", "replicas"), None)
    assert found("Fleet.example.com", scalable=True, owners=".spec.size") == (("spec", "size"), None)
    assert "which is .spec.replicas" in found("Fleet.example.com", scalable=True, written=".spec.size")[1]


@pytest.mark.parametrize("path", ["", ".metadata.generation", "spec.count", ".spec", ".spec.a b", ".spec.x\n"])
def test_what_the_owner_wrote_must_be_a_path(path):
    keys, problem = found(owners=path)
    assert keys is None
    assert "is no path of a size" in problem


@pytest.mark.parametrize(
    ("api_version", "kind", "key"),
    [("karpenter.sh/v1", "NodePool", "NodePool.karpenter.sh"), ("v1", "Thing", "Thing.")],
)
def test_a_kind_is_named_by_its_group(api_version, kind, key):
    assert kind_key(api_version, kind) == key


def test_annotations_that_kinds_read_are_kept_whatever_their_group():
    assert reads_annotation("machine.openshift.io/cluster-api-autoscaler-node-group-min-size")
    assert reads_annotation("eks.services.k8s.aws/desired-size-managed-by")
    assert not reads_annotation("kubectl.kubernetes.io/last-applied-configuration")


def test_the_page_on_gitops_names_the_size_of_every_kind():
    text = (Path(__file__).resolve().parents[3] / "docs" / "gitops.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| `(.*?)` \| `(.*?)` \|$", text, re.MULTILINE)
    told = {f"{kind}.{group}": pointer for kinds, group, pointer in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert told == {key: "/" + "/".join(kind.path) for key, kind in KINDS.items()}
