"""Programs of the local control plane: those on the path are taken if their version fits, and not built then."""

import re
from pathlib import Path

import pytest

from localcluster import binaries

SAYS = {
    "etcd": "etcd Version: {}.9",
    "helm": "v{}.9+gabc",
    "kubectl": "Client Version: v{}.9\nKustomize Version: v9.9.9",
    "kube-scheduler": "Kubernetes v{}.9",
    "kwok": "kwok version v{}.9 go1.99.1 (linux/amd64)",
}
"""How each program tells its version."""


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts a program on the path that tells a version, alone there; nothing is built."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "build", lambda tool: Path("/built") / tool.name)
    monkeypatch.setattr(binaries, "on_path", binaries.on_path.__wrapped__)

    def put(name, version):
        text = SAYS[name].format(version)
        (tmp_path / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{text}'\n")
        (tmp_path / name).chmod(0o755)
        return tmp_path / name

    return put


def pinned(name):
    """Major and minor version in the tool's ``go.mod``, read by the version alone."""
    (tool,) = [tool for tool in binaries.TOOLS if name in tool.programs.values()]
    module = next(iter(tool.programs)).split("/cmd/")[0]
    text = (binaries.TOOLS_FOLDER / tool.name / "go.mod").read_text()
    return re.search(rf"{re.escape(module)} v(\d+\.\d+)\.", text)[1]


@pytest.mark.parametrize("name", SAYS)
def test_a_program_of_the_pinned_minor_version_is_taken_from_the_path(put, name):
    there = put(name, pinned(name))
    assert binaries.program(name) == there


@pytest.mark.parametrize("version", ["0.1", "99.99", "not a version"])
@pytest.mark.parametrize("name", SAYS)
def test_one_of_another_version_is_not(put, name, version):
    put(name, version)
    assert binaries.program(name).parts[:2] == ("/", "built")


def test_without_any_it_is_built(put):
    assert binaries.program("kubectl") == Path("/built/kubernetes/kubectl")
