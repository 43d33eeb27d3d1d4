"""Builds the control plane's programs from their Go modules, once, into the user's cache folder.

A program that is on the path in the pinned minor version is taken from there. If all of a tool are, nothing of it is built.
Each folder of ``tools/`` is a Go module, ``go.mod`` and ``go.sum``, that pins one tool and all it is made of; some of them
have a program of their own beside these, and of one, Cluster API, only the definitions of its objects are read. A build is kept
under a key made of its files, the packages asked for and the Go version, so that nothing is built twice and nothing stale is
used. Only the standard library is imported here: this runs before the Python environment exists.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOOLS_FOLDER = Path(__file__).resolve().parent / "tools"
KUBERNETES_VERSION = "1.36.3"


class BuildError(RuntimeError):
    """A tool could not be built; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Tool:
    """One Go module under ``tools/`` and the programs to build from it (program name by package)."""

    name: str
    programs: dict[str, str]
    linker_flags: str = "-s -w"


_COMPILER_FLAGS = "-gcflags=all=-dwarf=false"
"""Nobody debugs these programs. Without tables for a debugger a build takes a tenth less; the programs act the same."""
_MAJOR_AND_MINOR = re.compile(r"(?<=v)\d+\.\d+|(?<=Version: )\d+\.\d+")
_VERSION_QUESTIONS = {"kubectl": ["version", "--client"], "helm": ["version", "--short"]}
"""How a program is asked for its version, if not by ``--version``."""
_VERSION_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{field}={value}"
    for field, value in (
        ("gitVersion", f"v{KUBERNETES_VERSION}"),
        ("gitMajor", KUBERNETES_VERSION.split(".")[0]),
        ("gitMinor", KUBERNETES_VERSION.split(".")[1]),
    )
)

TOOLS = (
    Tool(
        "kubernetes",
        {
            f"k8s.io/kubernetes/cmd/{program}": program
            for program in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        f"-s -w {_VERSION_FLAGS}",
    ),
    Tool("etcd", {"go.etcd.io/etcd/server/v3": "etcd"}),
    Tool("kwok", {"sigs.k8s.io/kwok/cmd/kwok": "kwok"}),
    Tool("karpenter", {"servingplan.dev/tools/karpenter": "karpenter"}),
    Tool("helm", {"helm.sh/helm/v4/cmd/helm": "helm"}),
)
"""The control plane, and what the demo needs."""
ON_DEMAND = (
    Tool("envoy-gateway", {"github.com/envoyproxy/gateway/cmd/envoy-gateway": "envoy-gateway"}),
    Tool("lws", {"sigs.k8s.io/lws/cmd": "lws"}),
    Tool("kueue", {"sigs.k8s.io/kueue/cmd/kueue": "kueue"}),
    Tool("argocd", {"servingplan.dev/tools/argocd": "argocd"}),
    Tool("kstatus", {"servingplan.dev/tools/kstatus": "kstatus"}),
)
"""Built by the test that first asks for it. Argo CD takes five minutes of a core, Kueue eight."""
NODE = Tool(
    "kubelet",
    {f"k8s.io/kubernetes/cmd/{program}": program for program in ("kubelet", "kube-proxy")},
    f"-s -w {_VERSION_FLAGS}",
)
"""The programs of a real node, which take some minutes more, so they are built only for the stories that run on one."""


def cache_folder() -> Path:
    """``$SERVINGPLAN_CACHE``, else ``servingplan`` in the user's cache folder."""
    if explicit := os.environ.get("SERVINGPLAN_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servingplan"


def program(name: str) -> Path:
    """The program on the path if its version fits, else the built one; builds its tool first where it is missing."""
    tool = next(tool for tool in (*TOOLS, *ON_DEMAND, NODE) if name in tool.programs.values())
    return on_path(tool, name) or build(tool) / name


@cache
def on_path(tool: Tool, name: str) -> Path | None:
    """The program of that name on the path, if it tells the major and minor version that ``go.mod`` pins."""
    found = shutil.which(name)
    (package,) = (package for package, built in tool.programs.items() if built == name)
    pinned = next(
        (version for module, version in _pinned(tool.name) if package == module or package.startswith(f"{module}/")),
        None,
    )
    if found is None or pinned is None:
        return None
    question = _VERSION_QUESTIONS.get(name, ["--version"])
    told = subprocess.run([found, *question], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    version = _MAJOR_AND_MINOR.search(told)
    return Path(found) if version is not None and version[0] == pinned else None


def _pinned(tool_name: str) -> list[tuple[str, str]]:
    """The modules that a tool is made of, each with its major and minor version."""
    text = (TOOLS_FOLDER / tool_name / "go.mod").read_text()
    return re.findall(r"^(?:require)?\s*(\S+) v(\d+\.\d+)\.", text, re.MULTILINE)


def module_folder(tool_name: str, module: str) -> Path:
    """The folder in which Go keeps the source of ``module`` as pinned by a tool; its CRDs and example stages are there."""
    asked = ["list", "-m", "-f", "{{.Dir}}", module]
    out = _go(asked, TOOLS_FOLDER / tool_name).strip()
    if not out:  # nothing was built from it yet
        _go(["mod", "download", module], TOOLS_FOLDER / tool_name)
        out = _go(asked, TOOLS_FOLDER / tool_name).strip()
    return Path(out)


def build(tool: Tool) -> Path:
    """Folder that holds the tool's programs, built if it is not there yet. Raises ``BuildError``.

    Of several processes that want it one builds, and the others wait.
    """
    folder = _folder(tool)
    if not _is_complete(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if not _is_complete(folder):
                _build(tool, folder)
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / ".complete").exists()


def _build(tool: Tool, folder: Path) -> None:
    source = TOOLS_FOLDER / tool.name
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        total = len(_go(["list", "-deps", *tool.programs], source).split())
        started = time.monotonic()
        _build_with_progress(tool, source, partial, total)
        for package, name in tool.programs.items():
            built = partial / _default_program_name(package)
            if built.name != name:
                built.rename(partial / name)
        (partial / ".complete").write_text(json.dumps({"seconds": round(time.monotonic() - started)}))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _folder(tool: Tool) -> Path:
    return cache_folder() / "bin" / f"{tool.name}-{_key(tool)}"


def _key(tool: Tool) -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", *sorted(path.name for path in (TOOLS_FOLDER / tool.name).glob("*.go"))):
        digest.update((TOOLS_FOLDER / tool.name / name).read_bytes())
    digest.update(json.dumps([tool.programs, tool.linker_flags], sort_keys=True).encode())
    digest.update(_go(["version"], TOOLS_FOLDER).encode())
    return digest.hexdigest()[:12]


def _default_program_name(package: str) -> str:
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def _build_with_progress(tool: Tool, source: Path, output: Path, total: int) -> None:
    flags = ["-trimpath", _COMPILER_FLAGS, f"-ldflags={tool.linker_flags}"]
    command = ["go", "build", "-v", *flags, "-o", f"{output}/", *tool.programs]
    started, interactive = time.monotonic(), sys.stderr.isatty()
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=source,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=lines.extend, args=(process.stderr,))
        reader.start()
        shown_at = -1e9
        while True:
            done = process.poll() is not None
            now = time.monotonic()
            if done or now - shown_at >= (1 if interactive else 20):
                shown_at = now
                text = f"building {tool.name}: {len(lines)} of at most {total} packages, {now - started:.0f} s"
                print(
                    f"\r{text}" if interactive else text, end="" if interactive else "\n", file=sys.stderr, flush=True
                )
            if done:
                break
            time.sleep(0.3)
        reader.join()
    if interactive:
        print(file=sys.stderr)
    if process.returncode:
        tail = "".join(lines[-15:])
        raise BuildError(f"go build of {tool.name} ended with {process.returncode}; its last words:\n{tail}")


def _go(arguments: list[str], folder: Path) -> str:
    if shutil.which("go") is None:
        raise BuildError("the program 'go' is not on the path: install Go 1.26 or newer and run this again")
    done = subprocess.run(
        ["go", *arguments], cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise BuildError(f"go {' '.join(arguments)} failed in {folder}: {done.stderr.strip()[-800:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}


def main() -> int:
    """Build everything; print one line per tool."""
    try:
        needed = [tool for tool in TOOLS if not all(on_path(tool, name) for name in tool.programs.values())]
        if not all(_is_complete(_folder(tool)) for tool in needed):
            print(
                "building the local cluster from source, once: 8 to 12 minutes on two cores",
                file=sys.stderr,
                flush=True,
            )
        for tool in TOOLS:
            where = build(tool) if tool in needed else "on the path"
            print(f"{tool.name}: {where}")
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
