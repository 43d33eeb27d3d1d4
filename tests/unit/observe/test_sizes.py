"""The path of a pool's size and its ceiling are the owner's, not the plan's."""

import pytest

from servingplan.api.v1alpha1 import Resize
from servingplan.observe.sizes import PATHS, ceiling, number, size_path


def resize(kind="NodePool.karpenter.sh", path=None):
    name, _, group = kind.partition(".")
    return Resize(api_version=f"{group}/v1", kind=name, name="p", replicas_path=path)


def annotated(path):
    return {"servingplan.dev/replicas-path": path}


@pytest.mark.parametrize("kind", PATHS)
def test_known_kinds_need_no_path_and_take_their_own(kind):
    for path in (None, PATHS[kind]):
        assert size_path(resize(kind, path), {}) == (tuple(PATHS[kind][1:].split(".")), None)


@pytest.mark.parametrize("path", [".spec.weight", ".spec.replicas.x", ".spec.template.spec.expireAfter"])
def test_a_plan_does_not_choose_the_path(path):
    keys, problem = size_path(resize(path=path), {})
    assert keys == ("spec", "replicas")
    assert "is not the path of the size of NodePool p, which is .spec.replicas; remove it" in problem
    assert "servingplan.dev/replicas-path" in problem


def test_the_owner_chooses_it_and_the_plan_may_only_agree():
    kind = "Fleet.example.com"
    assert size_path(resize(kind), annotated(".spec.count")) == (("spec", "count"), None)
    assert size_path(resize(kind, ".spec.count"), annotated(".spec.count")) == (("spec", "count"), None)
    keys, problem = size_path(resize(kind, ".spec.replicas"), annotated(".spec.count"))
    assert keys == ("spec", "count")
    assert "which is .spec.count" in problem
    assert size_path(resize(), annotated(".spec.limit"))[0] == ("spec", "limit")


@pytest.mark.parametrize("path", [None, ".spec.count"])
def test_of_another_kind_nobody_knows_it(path):
    keys, problem = size_path(resize("Fleet.example.com", path), {})
    assert keys is None
    assert "the object's owner must write it into its annotation servingplan.dev/replicas-path" in problem


@pytest.mark.parametrize("path", ["", ".metadata.generation", "spec.count", ".spec", ".spec.a b", ".spec.x\n"])
def test_what_the_owner_wrote_must_be_a_path(path):
    keys, problem = size_path(resize(), annotated(path))
    assert keys is None
    assert "is not the path of a size" in problem


@pytest.mark.parametrize(
    ("text", "most", "readable"),
    [("7", 7, True), (" 7 ", 7, True), ("0", 0, True)]
    + [(text, 3, False) for text in ("", "seven", "-1", "1.5", "1e3", "²", "٣", "9" * 7, "7 nodes")],
)
def test_a_ceiling_that_cannot_be_read_keeps_the_size_of_the_moment(text, most, readable):
    found, problem = ceiling({"servingplan.dev/max-nodes": text}, 3)
    assert (found, problem is None) == (most, readable)
    assert readable or "it does not grow" in problem


def test_without_a_ceiling_there_is_none():
    assert ceiling({}, 3) == (None, None)


@pytest.mark.parametrize("text", [None, "", "²", "-1", "x"])
def test_a_note_of_ours_that_is_no_number_is_none(text):
    assert number(text) is None
