"""Container images as files: layers that are the same bytes whenever they hold the same files, and archives of images.

An archive is two things at once, so that every loader takes it: an OCI image layout (``oci-layout``, ``index.json``, ``blobs``;
OCI image specification 1.1) for ``ctr images import``, ``kind load image-archive`` and ``podman load``, and, by its
``manifest.json``, what ``docker save`` writes for ``docker load``.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MADE_AT = 315532800
"""The time of every file, as seconds since 1970: 1980-01-01, the first that a wheel can hold."""
_MADE_AT_TEXT = "1980-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
Json = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """An uncompressed tar file and its SHA-256."""

    file: Path
    digest: str

    @staticmethod
    def of(file: Path) -> Layer:
        """The layer in a file."""
        with file.open("rb") as content:
            return Layer(file, hashlib.file_digest(content, "sha256").hexdigest())


@dataclass(frozen=True)
class Image:
    """An image: its name, what it starts, and its layers from the lowest to the highest."""

    name: str
    """The name of the image with its tag, such as ``servingplan:0.1.0``."""
    entrypoint: Sequence[str]
    layers: Sequence[Layer]
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    """``UID:GID``; empty: root."""
    folder: str = "/"
    ports: Sequence[str] = ()
    """Such as ``8080/tcp``."""
    labels: Mapping[str, str] = field(default_factory=dict)


def architecture() -> str:
    """This machine's, as images name it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def full_name(name: str) -> str:
    """The name as containerd keeps it: a short one is Docker's."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def write_archive(path: Path, images: Sequence[Image]) -> list[str]:
    """Write the images into one archive. Returns the digests of their manifests."""
    blobs: dict[str, Path | bytes] = {}
    described, saved, digests = [], [], []
    for image in images:
        config = _put(blobs, _CONFIG, _config(image))
        layers = []
        for layer in image.layers:
            blobs[layer.digest] = layer.file
            layers.append({"mediaType": _LAYER, "digest": f"sha256:{layer.digest}", "size": layer.file.stat().st_size})
        manifest = _put(
            blobs, _MANIFEST, {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        )
        tag = image.name.rpartition(":")[2]
        names = {"io.containerd.image.name": full_name(image.name), "org.opencontainers.image.ref.name": tag}
        here = {"architecture": architecture(), "os": "linux"}
        described.append({**manifest, "platform": here, "annotations": names})
        saved.append(
            {
                "Config": f"blobs/{config['digest'].replace(':', '/')}",
                "RepoTags": [image.name],
                "Layers": [f"blobs/sha256/{layer.digest}" for layer in image.layers],
            }
        )
        digests.append(str(manifest["digest"]))
    with tarfile.open(path, "w") as out:
        add_bytes(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_bytes(out, "index.json", _encoded({"schemaVersion": 2, "mediaType": _INDEX, "manifests": described}))
        add_bytes(out, "manifest.json", _encoded(saved))
        for digest, content in sorted(blobs.items()):
            if isinstance(content, Path):
                add_file(out, f"blobs/sha256/{digest}", content, mode=0o644)
            else:
                add_bytes(out, f"blobs/sha256/{digest}", content)
    return digests


def _config(image: Image) -> Json:
    started: Json = {
        "Entrypoint": list(image.entrypoint),
        "Env": [f"{name}={value}" for name, value in sorted(image.environment.items())],
        "WorkingDir": image.folder,
    }
    if image.command:
        started["Cmd"] = list(image.command)
    if image.user:
        started["User"] = image.user
    if image.ports:
        started["ExposedPorts"] = {port: {} for port in image.ports}
    if image.labels:
        started["Labels"] = dict(sorted(image.labels.items()))
    return {
        "created": _MADE_AT_TEXT,
        "architecture": architecture(),
        "os": "linux",
        "config": started,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in image.layers]},
        "history": [{"created": _MADE_AT_TEXT, "created_by": f"layer {n + 1}"} for n in range(len(image.layers))],
    }


def _put(blobs: dict[str, Path | bytes], kind: str, content: Json) -> Json:
    encoded = _encoded(content)
    digest = hashlib.sha256(encoded).hexdigest()
    blobs[digest] = encoded
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(encoded)}


def _encoded(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


# --- entries of a tar file: root's, for everybody to read, and of one time ---


def add_bytes(out: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    """Add a file with this content."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode, MADE_AT
    out.addfile(entry, io.BytesIO(content))


def add_file(out: tarfile.TarFile, name: str, file: Path, *, mode: int | None = None) -> None:
    """Add a file's content; executable if the file is, unless ``mode`` says otherwise."""
    status = file.stat()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = status.st_size, MADE_AT
    entry.mode = mode if mode is not None else 0o755 if status.st_mode & 0o100 else 0o644
    with file.open("rb") as content:
        out.addfile(entry, content)


def add_folder(out: tarfile.TarFile, name: str, *, mode: int = 0o755) -> None:
    """Add an empty folder."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, MADE_AT
    out.addfile(entry)


def add_link(out: tarfile.TarFile, name: str, target: str) -> None:
    """Add a symbolic link."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, target, MADE_AT
    out.addfile(entry)


def add_tree(out: tarfile.TarFile, folder: Path, name: str = "") -> None:
    """Add all files below a folder, in the order of their names."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        inner = file.relative_to(folder).as_posix()
        add_file(out, f"{name}/{inner}" if name else inner, file)
