"""The operator's image, made of what is on this machine: no registry and no container engine are needed.

    python -m localcluster.image --output dist/servingplan-0.1.0.tar

The lower layer is this Python, the distributions that the lock file names, and the shared libraries of these. The upper one
is the project's wheel. The same machine and lock file give the same image, to the byte. ``Dockerfile`` makes an image that
starts the same program in the same way.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from localcluster import oci
from localcluster.binaries import cache_folder
from localcluster.oci import Image, Layer

VERSION = importlib.metadata.version("servingplan")
NAME = f"servingplan:{VERSION}"
USER = "65532:65532"
"""Not root. Any other user can run it too: everything is for everybody to read."""
ROOT = Path(__file__).resolve().parents[1]
_PYTHON_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
HOME = "opt/python"
PYTHON = f"/{HOME}/bin/{_PYTHON_NAME}"
_STANDARD_LIBRARY = f"{HOME}/lib/{_PYTHON_NAME}"
PACKAGES = f"{_STANDARD_LIBRARY}/site-packages"
LIBRARIES = f"{HOME}/lib"
"""The folder of shared libraries that the loader would not find by itself."""
_STARTER = f"#!{PYTHON}\nimport sys\nfrom servingplan.cli import main\nsys.exit(main())\n"
_USERS = "root:x:0:0::/:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/sh\n"
_PROGRAMS = ("sh", "test", "sleep", "cat", "ls")
"""What probes and people start in a container."""
_LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages", "__pycache__")
_UNUSED = "kubernetes/aio/"
"""The client's asynchronous twin, which nothing here imports: a third of the image."""
_NOT_OF_A_DISTRIBUTION = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_cache.json")
"""What an installer adds to a distribution's metadata, which differs from one installation to the next."""
ENVIRONMENT = {
    "HOME": "/tmp",
    "LD_LIBRARY_PATH": f"/{LIBRARIES}",
    "PATH": f"/{HOME}/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}


class BuildError(Exception):
    """The image cannot be made here; the message says why and what to do."""


def operator_image(folder: Path, *, cache: Path | None = None) -> Image:
    """The operator's image. Its upper layer is written into ``folder``; its lower one is kept in ``cache``, in the user's
    cache folder if None.

    Raises ``BuildError`` if this machine is none that an image can be made of.
    """
    if sys.platform != "linux":
        raise BuildError("an image is made of this machine's own programs, which must be Linux: use docker or podman")
    return Image(
        name=NAME,
        entrypoint=["servingplan"],
        command=["run"],
        layers=[base_layer(cache or cache_folder() / "images"), _wheel_layer(folder)],
        environment=ENVIRONMENT,
        user=USER,
        folder="/tmp",
        ports=["8080/tcp", "8081/tcp"],
        labels={
            "org.opencontainers.image.title": "servingplan",
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    )


def base_layer(folder: Path) -> Layer:
    """The lower layer, kept in ``folder`` under what it is made of, with its digest at the end of the name."""
    packages = sorted(dependencies("servingplan"), key=lambda one: one.name)
    _check_locked(packages)
    sources = [Path(__file__), Path(oci.__file__)]
    made_of = [sys.version, sys.base_prefix, *(file.read_text() for file in sources)]
    made_of += [f"{one.name} {one.version}" for one in packages]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    if found := next(folder.glob(f"operator-{key}-*.tar"), None):
        return Layer(found, found.stem.rpartition("-")[2])
    with tempfile.TemporaryDirectory(dir=folder, prefix="partial-") as partial:
        layer = Layer.of(_write_base(Path(partial), packages))
        return Layer(layer.file.rename(folder / f"operator-{key}-{layer.digest}.tar"), layer.digest)


def _write_base(folder: Path, packages: Sequence[importlib.metadata.Distribution]) -> Path:
    staged, layer = folder / "staged", folder / "layer.tar"
    interpreter = Path(sys.base_prefix) / "bin" / _PYTHON_NAME
    _copy(interpreter, staged / PYTHON.lstrip("/"))
    needing = [interpreter, *_copy_standard_library(staged / _STANDARD_LIBRARY)]
    for package in packages:
        needing += copy_distribution(package, staged / PACKAGES)
    for name in _PROGRAMS:
        program = shutil.which(name)
        if program is None:
            raise BuildError(f"the program {name} is not on the path of this machine")
        needing.append(_copy(Path(program), staged / "usr" / "bin" / name))
    copy_libraries(needing, staged)
    compile_all(staged / HOME, staged)
    with tarfile.open(layer, "w") as out:
        for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)):
            oci.add_folder(out, name, mode=mode)
        oci.add_bytes(out, "etc/passwd", _USERS.encode())
        oci.add_link(out, "bin/sh", "/usr/bin/sh")
        oci.add_bytes(out, "usr/bin/servingplan", _STARTER.encode(), mode=0o755)
        oci.add_tree(out, staged)
    return layer


def _wheel_layer(folder: Path) -> Layer:
    """The project's wheel, installed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="wheel-") as partial:
        (wheel,) = WheelBuilder(str(ROOT)).build(directory=partial, versions=["standard"])
        staged, layer = Path(partial) / "staged", folder / "wheel.tar"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(staged / PACKAGES)
        compile_all(staged / PACKAGES, staged)
        with tarfile.open(layer, "w") as out:
            oci.add_tree(out, staged)
    return Layer.of(layer)


def compile_all(folder: Path, root: Path) -> None:
    """Compile the modules below ``folder``, for an image whose root is ``root``. A container cannot write what it compiles.

    The bytecode holds no time of its source, and one process compiles in the order of names: it is the same each time.
    """
    command = [sys.executable, "-I", "-m", "compileall", "-q", "-s", str(root), "-p", "/"]
    command += ["--invalidation-mode", "unchecked-hash", str(folder)]
    done = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"a module of {folder} cannot be compiled: {done.stdout.strip()[-800:]}")


def copy_distribution(package: importlib.metadata.Distribution, folder: Path) -> list[Path]:
    """Copy a distribution's files below ``folder``. Returns those with machine code, where they came from."""
    binaries = []
    for file in sorted(package.files or (), key=str):
        path = Path(str(package.locate_file(file)))
        unwanted = {"..", "__pycache__", "tests"} & set(file.parts) or file.name in _NOT_OF_A_DISTRIBUTION
        if not unwanted and not str(file).startswith(_UNUSED) and path.is_file():
            _copy(path, folder / str(file))
            binaries += [path] * (path.suffix == ".so" or ".so." in path.name or os.access(path, os.X_OK))
    return binaries


def copy_libraries(binaries: Iterable[Path], root: Path) -> None:
    """Copy the shared libraries that these need, and that are no part of Python's own folders, below ``root``."""
    for library in sorted(_libraries(binaries)):
        known = library.is_relative_to("/lib") or library.is_relative_to("/lib64") or library.is_relative_to("/usr/lib")
        _copy(library, root / (str(library).lstrip("/") if known else f"{LIBRARIES}/{library.name}"))


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    found = {Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")}
    ours = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return {path for path in found if path.is_file() and not any(path.resolve().is_relative_to(one) for one in ours)}


def _copy_standard_library(folder: Path) -> list[Path]:
    source = Path(sysconfig.get_path("stdlib"))
    binaries = []
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if (
            path.is_file()
            and "__pycache__" not in inner.parts
            and not inner.parts[0].startswith((*_LEFT_OUT, "config-"))
        ):
            _copy(path, folder / inner)
            binaries += [path] * (path.suffix == ".so")
    return binaries


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    return source


def dependencies(*names: str) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that these need to run, and these, but for the project's own."""
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


def _check_locked(packages: Iterable[importlib.metadata.Distribution]) -> None:
    """The image holds what the lock file names, whatever was installed since."""
    listed = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {(one["name"], one["version"]) for one in listed}
    for one in packages:
        name = one.name.lower().replace("_", "-").replace(".", "-")
        if (name, one.version) not in locked:
            raise BuildError(f"{one.name} {one.version} is installed, but is not what uv.lock names: run make setup")


def main() -> int:
    """Write the archive and print its name and the image's digest. Returns 0, or 1 if there can be none."""
    parser = argparse.ArgumentParser(prog="python -m localcluster.image", description="Build the operator's image.")
    parser.add_argument("--output", type=Path, default=Path("dist") / f"servingplan-{VERSION}.tar")
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            (digest,) = oci.write_archive(output, [operator_image(Path(folder))])
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{output}: {NAME}, {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
