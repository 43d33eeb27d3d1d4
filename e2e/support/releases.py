"""Releases of the operator that a story runs: this one, and an earlier one from its commit."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from packaging.requirements import Requirement

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Release:
    """The files of a release, and how its command is run."""

    folder: Path
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment, beside those that every process has."""

    @property
    def chart(self) -> Path:
        """The operator's chart."""
        return self.folder / "charts" / "servingplan"

    @property
    def definition(self) -> Path:
        """The definition of plans."""
        return self.folder / "crds" / "llmservingplans.servingplan.dev.yaml"

    def environment(self) -> dict[str, str]:
        """The environment of its processes. Without the variables of a pod, a kubeconfig is what counts."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
        return {**own, **self.variables}


THIS = Release(_ROOT, (str(Path(sys.executable).with_name("servingplan")),))


class CommitNotThereError(Exception):
    """This copy of the repository does not reach back to the commit."""


def earlier(commit: str, folder: Path) -> Release:
    """The release of a commit, its files unpacked into ``folder``.

    It runs in this environment if that has what its ``pyproject.toml`` asks for, else in one of its own by its lock file.
    Raises ``CommitNotThereError``.
    """
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise CommitNotThereError(f"{commit} is not in this copy of the repository: is it a shallow clone?")
    archive = _git("archive", "--format=tar", commit)
    assert archive.returncode == 0, archive.stderr.decode()
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    python = sys.executable
    if unmet := _unmet(folder / "pyproject.toml"):
        print(f"{commit} gets an environment of its own: here is not {', '.join(unmet)}")
        subprocess.run(["make", "-C", str(folder), "setup"], check=True)
        python = str(folder / ".venv" / "bin" / "python")
    # Found before the package of this release.
    release = Release(folder, (python, "-m", "servingplan"), {"PYTHONPATH": str(folder / "operator")})
    _make_sure_of(release, python)
    return release


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True)


def _unmet(project: Path) -> list[str]:
    """The requirements of a project that this environment does not meet."""
    asked = map(Requirement, tomllib.loads(project.read_text())["project"]["dependencies"])
    return [str(one) for one in asked if not one.specifier.contains(_installed(one.name), prereleases=True)]


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _make_sure_of(release: Release, python: str) -> None:
    asked = [python, "-c", "import servingplan; print(servingplan.__file__)"]
    done = subprocess.run(asked, env=release.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.is_relative_to(release.folder), f"another release would run: {found}"
