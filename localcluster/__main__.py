"""A local control plane from the command line.

python -m localcluster run -- kubectl get nodes    run a command with KUBECONFIG set, then end everything
python -m localcluster up                          start one that stays, and print how to use it
python -m localcluster status
python -m localcluster down
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from localcluster import binaries, karpenter
from localcluster.binaries import BuildError
from localcluster.certificates import CertificateError
from localcluster.control_plane import ControlPlane, StartError, say_to_stderr
from localcluster.nodes import NODE_TYPES
from localcluster.stages import PodTimes

_REPOSITORY = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is that of what it ran."""
    parser = argparse.ArgumentParser(prog="python -m localcluster", description="A local Kubernetes control plane.")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = argparse.ArgumentParser(add_help=False)
    starting.add_argument(
        "--karpenter", action="store_true", help="with Karpenter and an empty static pool per GPU type"
    )
    starting.add_argument(
        "--ready-seconds", type=int, default=PodTimes.ready_seconds, help="until model servers are Ready"
    )
    starting.add_argument(
        "--stop-seconds", type=int, default=PodTimes.stop_seconds, help="until model servers have ended"
    )
    starting.add_argument("--never-ready-percent", type=int, default=PodTimes.never_ready_percent)
    run = commands.add_parser("run", parents=[starting], help="run a command against a control plane of its own")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    commands.add_parser("up", parents=[starting], help="start a control plane that stays")
    commands.add_parser("hold", parents=[starting], help=argparse.SUPPRESS)
    commands.add_parser("status", help="tell whether it is up")
    commands.add_parser("down", help="end it")
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "run":
                return _run(chosen)
            case "up":
                return _up(chosen, sys.argv[2:] if arguments is None else arguments[1:])
            case "hold":
                return _hold(chosen)
            case "status":
                return _status()
            case _:
                return _down()
    except (BuildError, CertificateError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _plane(chosen: argparse.Namespace) -> ControlPlane:
    times = PodTimes(chosen.ready_seconds, chosen.stop_seconds, chosen.never_ready_percent)
    return ControlPlane(karpenter=chosen.karpenter, pod_times=times, say=say_to_stderr)


def _add_pools(chosen: argparse.Namespace, cluster: ControlPlane) -> None:
    if chosen.karpenter:
        cluster.apply(karpenter.node_class(), *map(karpenter.static_node_pool, NODE_TYPES))


def _run(chosen: argparse.Namespace) -> int:
    words = chosen.words[1:] if chosen.words[:1] == ["--"] else chosen.words
    with _plane(chosen) as cluster:
        _add_pools(chosen, cluster)
        return subprocess.run(words or [os.environ.get("SHELL", "/bin/sh")], env=cluster.environment()).returncode


def _up(chosen: argparse.Namespace, options: list[str]) -> int:
    if _state():
        return _status()
    state_file, log = _state_file(), _state_file().with_suffix(".log")
    state_file.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        holder = subprocess.Popen(
            [sys.executable, "-m", "localcluster", "hold", *options],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this command and its terminal
        )
    print(f"starting; progress in {log}", file=sys.stderr)
    while not _state():
        if holder.poll() is not None:
            print(log.read_text()[-4000:], file=sys.stderr)
            return 1
        time.sleep(0.1)
    return _status()


def _hold(chosen: argparse.Namespace) -> int:
    with _plane(chosen) as cluster:
        _add_pools(chosen, cluster)
        state = {"pid": os.getpid(), "server": cluster.server, "kubeconfig": str(cluster.kubeconfig)}
        partial = _state_file().with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.rename(_state_file())
        try:
            signal.pause()
        finally:
            _state_file().unlink(missing_ok=True)
    return 0


def _status() -> int:
    state = _state()
    if not state:
        print("not running")
        return 1
    print(f"running: {state['server']} (pid {state['pid']})\nexport KUBECONFIG={state['kubeconfig']}")
    print(f"export PATH={binaries.program('kubectl').parent}:$PATH")
    return 0


def _down() -> int:
    state = _state()
    if not state:
        print("not running")
        return 0
    os.kill(state["pid"], signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        while True:  # it is no child of ours to wait for
            os.kill(state["pid"], 0)
            time.sleep(0.05)
    print("ended")
    return 0


def _state_file() -> Path:
    return binaries.cache_folder() / "cluster.json"


def _state() -> dict[str, Any] | None:
    """What a running holder wrote; None if there is none, or if it was killed before it could take it back."""
    try:
        state = json.loads(_state_file().read_text())
        is_holder = b"localcluster" in Path(f"/proc/{state['pid']}/cmdline").read_bytes()
    except OSError:
        return None
    return state if is_holder else None


if __name__ == "__main__":
    sys.exit(main())
