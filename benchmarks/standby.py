"""How long a standby takes to hold the Lease after the operator that acts is killed, several times."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.ground import wait
from benchmarks.report import Row, Section, alone, percentile
from localcluster.control_plane import ControlPlane
from localcluster.operator_process import OperatorProcess
from servingplan.errors import NotFound
from servingplan.kube import Api, Kube
from servingplan.lease import ALL, LEASES

GOAL_SECONDS = 15.0
LEASE_NAMESPACE = "kube-system"
LOOK_SECONDS = 0.05


def measure(quick: bool) -> Section:
    """The section of the benchmark page: the operator that acts is killed, the other takes the Lease, a new one stands by."""
    kills = 2 if quick else 10
    found = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(ControlPlane())
        api = Kube(stack.enter_context(cluster.client()))

        def start(number: int) -> OperatorProcess:
            log = folder / f"{number}.log"
            arguments = ("--lease-namespace", LEASE_NAMESPACE)
            return stack.enter_context(OperatorProcess(cluster, log=log, arguments=arguments))

        acting = start(0)
        wait(lambda: _holder(api) is not None, 120)
        for number in range(1, kills + 1):
            holder, standby = _holder(api), start(number)
            log = folder / f"{number}.log"
            wait(partial(_stands_by, log), 120)
            acting.process.kill()
            killed = time.monotonic()
            while _holder(api) in (None, holder):
                time.sleep(LOOK_SECONDS)
            found.append(time.monotonic() - killed)
            acting = standby
    most = max(found)
    text = f"median {percentile(found, 50):.1f} s, {min(found):.1f} to {most:.1f} s"
    return Section(
        "From the death of an operator to the next",
        "Two operators, of which one acts. From SIGKILL of that one to the Lease in the name of the other. A holder that could "
        "not renew its Lease for 7 s stops acting, and nobody takes it before 10 s are over, so no two act at a time.",
        (Row(f"taken over, {kills} times", text, f"{GOAL_SECONDS:g} s", most < GOAL_SECONDS),),
    )


def _stands_by(log: Path) -> bool:
    return "standing by for" in log.read_text()


def _holder(api: Api) -> str | None:
    try:
        found = api.get(LEASES, ALL, namespace=LEASE_NAMESPACE)
    except NotFound:
        return None
    holder = (found.get("spec") or {}).get("holderIdentity")
    return str(holder) if holder else None


if __name__ == "__main__":
    alone(measure)
