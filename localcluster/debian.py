"""Programs of Debian packages as plain files in the user's cache folder.

``apt-get download`` fetches them and ``dpkg -x`` unpacks them, neither of which needs root nor installs anything. Their
versions are those that the host's release has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from localcluster.binaries import cache_folder

FETCH_SECONDS = 120


class NotToBeHadError(RuntimeError):
    """A program is not on this host and cannot be fetched; the text says why, in one line."""


def folder_of(name: str) -> Path:
    """Where the packages kept under ``name`` are unpacked, or will be."""
    return cache_folder() / "bin" / name


def unpacked(name: str, packages: tuple[str, ...]) -> Path:
    """``folder_of(name)``, with the packages unpacked in it. Raises ``NotToBeHadError``."""
    folder = folder_of(name)
    if folder.exists():
        return folder
    for needed in ("apt-get", "dpkg"):
        if shutil.which(needed) is None:
            raise NotToBeHadError(f"no {needed} to fetch Debian's packages with ({', '.join(packages)})")
    print(f"{name}: fetching Debian's packages into the cache", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        here = Path(scratch)
        try:
            _run(["apt-get", "download", "--quiet", *packages], here)
            fetched = sorted(here.glob("*.deb"))
            for package in fetched:
                _run(["dpkg", "-x", package.name, "unpacked"], here)
        except (subprocess.SubprocessError, OSError) as error:
            why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise NotToBeHadError(f"Debian's packages cannot be had: {why[-1] if why else error}") from error
        if len(fetched) != len(packages):
            raise NotToBeHadError(f"apt-get download {' '.join(packages)} brought {len(fetched)} packages")
        try:
            (here / "unpacked").rename(folder)
        except OSError:
            if not folder.exists():  # else another run was faster
                raise
    return folder


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        timeout=FETCH_SECONDS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
