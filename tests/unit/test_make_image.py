"""``make image`` with programs in place of the container engines that do what these do to files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
for word in "$@"; do case "$word" in docker-archive:*) archive="${word#docker-archive:}"; archive="${archive%%:*}" ;; esac; done
[ "$1" = save ] && archive="$3"
[ -n "$archive" ] || exit 0
[ -e "$archive" ] && { echo "docker-archive doesn't support modifying existing images" >&2; exit 125; }
echo image > "$archive"
"""
"""An engine that writes no archive over another one, as buildah and podman do not."""


@pytest.fixture
def make(tmp_path):
    """Runs ``make image`` in a folder of its own, and returns the calls of the engines."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name in ("docker", "podman", "buildah"):
        (programs / name).write_text(ENGINE)
        (programs / name).chmod(0o755)

    def run(*arguments):
        calls.write_text("")
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "CALLS": str(calls)}
        command = ["make", "--old-file=setup", "image", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list((tmp_path / "dist").glob("servingplan-*.tar"))
        return calls.read_text().splitlines()

    return run


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_an_image_can_be_built_a_second_time(make, engine):
    make(f"ENGINE={engine}")
    assert {call.split()[0] for call in make(f"ENGINE={engine}")} == {engine}


def test_the_first_engine_that_runs_is_taken(make):
    assert make()[0] == "docker info"


@pytest.mark.parametrize("engine", ["docker", "buildah"])
def test_the_base_can_be_named(make, engine):
    build = next(call for call in make(f"ENGINE={engine}", "PYTHON_IMAGE=python@sha256:01") if " build " in call)
    assert "--build-arg PYTHON_IMAGE=python@sha256:01" in build
