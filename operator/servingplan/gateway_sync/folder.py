"""EFFECT. Keeps a folder of files that change all at once, in the way of the kubelet with a mounted ConfigMap."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

_DATA = "..data"
_NEXT = "..data_next"
_PREFIX = "..version_"


class Folder:
    """A folder in which each file is a link through ``..data``, and ``..data`` is a link to the present version. When that
    one link is exchanged, a reader sees all the new files and none of the old."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._number = 0

    def put(self, files: Mapping[str, str]) -> bool:
        """Replace all files by these. False if they are already there."""
        current = self.path / _DATA
        if current.is_dir() and _content(current) == dict(files):
            return False
        fresh = self._fresh()
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_text(text)
        for name in files:  # before the exchange, so that the new version is complete at that moment
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(f"{_DATA}/{name}")
        following = self.path / _NEXT
        following.unlink(missing_ok=True)
        following.symlink_to(fresh.name)
        following.rename(current)
        self._clear(files, fresh)
        return True

    def _fresh(self) -> Path:
        while (path := self.path / f"{_PREFIX}{self._number}").exists():
            self._number += 1
        return path

    def _clear(self, files: Mapping[str, str], kept: Path) -> None:
        for path in self.path.iterdir():
            if path.name.startswith(_PREFIX) and path != kept:
                shutil.rmtree(path)
            elif path.is_symlink() and path.name != _DATA and path.name not in files:
                path.unlink()


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}
