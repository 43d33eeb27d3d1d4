"""Namespaces in which a container runtime and a kubelet can believe that the machine is theirs.

Mounts, network, process ids, host name and cgroups are its own; nothing outside changes but a cgroup below ours. Its
first process reads commands from a pipe and ends when the pipe closes, and everything in the sandbox ends with it: however
we die, nothing is left running.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
_NAMESPACES = ("--mount", "--net", "--cgroup", "--pid", "--uts", "--fork", "--mount-proc")
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_PREFIX = "servingplan-node-"
# Settings of the whole machine that a kubelet would change: it gets files with the values it wants.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_PRIVATE_FOLDERS = ("/run", "/var/lib", "/var/log")
_END_SECONDS = 60


class SandboxError(RuntimeError):
    """The namespaces could not be made; the message says what failed."""


def missing() -> str:
    """Why there can be no sandbox here, in one line; empty where there can."""
    if os.geteuid() != 0:
        return "only root can make one"
    absent = [name for name in _CONTROLLERS if not (_CGROUPS / name / "cgroup.procs").exists()]
    if absent:
        return f"it is written for cgroup v1, and {_CGROUPS} has no {', '.join(absent)}"
    closed = [name for name in _CONTROLLERS if not os.access(_below(name), os.W_OK)]
    if closed:
        return f"no cgroup may be made for {', '.join(closed)}"
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            return f"the program {program} is not on the path"
    tried = subprocess.run(["unshare", *_NAMESPACES, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if tried.returncode:
        return f"namespaces are not allowed here: {tried.stderr.strip()}"
    return ""


class Sandbox:
    """A sandbox that lives as long as its block. ``folder`` is shared with it: same files, same path."""

    def __init__(self, folder: Path, hostname: str) -> None:
        self._folder, self._hostname = folder, hostname
        self._cgroups: list[Path] = []
        self._outer: subprocess.Popen[str] | None = None
        self.pid = 0
        """The process id of its first process, as seen from outside."""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_cgroups()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self._cgroups = [_own_cgroup(name) for name in _CONTROLLERS]
        inner = shlex.join(["unshare", *_NAMESPACES, "--kill-child", "bash", "-c", self._first_process()])
        joining = f'for group; do echo $$ > "$group/cgroup.procs"; done; exec {inner}'
        with (self._folder / "sandbox.log").open("wb") as log:
            self._outer = subprocess.Popen(
                ["bash", "-c", joining, "bash", *map(str, self._cgroups)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._outer.stdout is not None
        if self._outer.stdout.readline().strip() != "ready":
            raise SandboxError(f"no sandbox: {(self._folder / 'sandbox.log').read_text().strip()[-800:]}")
        outer = self._outer.pid
        self.pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _first_process(self) -> str:
        lines = [
            "set -e",
            f"hostname {self._hostname}",
            "mount -t sysfs sysfs /sys",
            "mount -t tmpfs tmpfs /sys/fs/cgroup",
        ]
        for name in _CONTROLLERS:
            kind = "none,name=systemd" if name == "systemd" else name
            lines += [f"mkdir /sys/fs/cgroup/{name}", f"mount -t cgroup -o {kind} cgroup /sys/fs/cgroup/{name}"]
        lines += [f"mount -t tmpfs tmpfs {folder}" for folder in _PRIVATE_FOLDERS]
        settings = self._folder / "kernel"
        settings.mkdir(exist_ok=True)
        for setting, value in _KERNEL_SETTINGS.items():
            file = settings / setting.replace("/", "-")
            file.write_text(f"{value}\n")
            lines.append(f"mount --bind {shlex.quote(str(file))} /proc/sys/{setting}")
        lines += ["mount --make-rshared /", "ip link set lo up", "echo ready"]
        # bash reaps what is orphaned; at the end of the pipe it exits, and the kernel kills all that it leaves.
        lines += ["set +e", 'while IFS= read -r line; do eval "$line"; done']
        return "\n".join(lines)

    def tell(self, command: str) -> None:
        """Have its first process evaluate a line of shell."""
        assert self._outer is not None
        assert self._outer.stdin is not None
        self._outer.stdin.write(f"{command}\n")
        self._outer.stdin.flush()

    def spawn(self, name: str, command: Sequence[str], *, environment: dict[str, str]) -> None:
        """Start a program; it logs to ``NAME.log`` in the folder."""
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        log = shlex.quote(str(self._folder / f"{name}.log"))
        self.tell(f"env {settings} {shlex.join(command)} < /dev/null > {log} 2>&1 &")

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                # It is gone only when all its namespace is.
                os.kill(self.pid or self._outer.pid, signal.SIGKILL)
            self._outer.wait()
            for pipe in (self._outer.stdin, self._outer.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._outer = None
        end = time.monotonic() + _END_SECONDS
        while self._cgroups and time.monotonic() < end:
            self._cgroups = [group for group in self._cgroups if not _removed(group)]
            time.sleep(0.05 if self._cgroups else 0)


def _own_cgroup(controller: str) -> Path:
    made = _below(controller) / f"{_CGROUP_PREFIX}{os.getpid()}"
    made.mkdir(exist_ok=True)
    if controller == "cpuset":  # empty at birth, and then no process may enter
        for setting in ("cpuset.cpus", "cpuset.mems"):
            (made / setting).write_text((made.parent / setting).read_text())
    return made


def _below(controller: str) -> Path:
    """Our own cgroup: what runs in the sandbox stays within our limits."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.removeprefix("name=").split(","):
            own = _CGROUPS / controller / path.lstrip("/")
            return own if own.is_dir() else _CGROUPS / controller  # a container may see its own as the root
    raise SandboxError(f"no cgroup of {controller} in /proc/self/cgroup")


def _removed(group: Path) -> bool:
    """Whether a cgroup and all below it could be taken away: those with processes stay."""
    if not group.exists():
        return True
    inner = [Path(path) for path, _, _ in os.walk(group, topdown=False)]
    try:
        for folder in inner:
            folder.rmdir()
    except OSError:
        return False
    return True


def _remove_abandoned_cgroups() -> None:
    for controller in _CONTROLLERS:
        for group in _below(controller).glob(f"{_CGROUP_PREFIX}*"):
            if not Path(f"/proc/{group.name.removeprefix(_CGROUP_PREFIX)}").exists():
                _removed(group)
