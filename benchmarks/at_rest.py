"""Writes of a plan at rest: none."""

from __future__ import annotations

import re
import time

from benchmarks.ground import example, ground, wait
from benchmarks.report import Row, Section, alone
from servingplan.kube import PLANS

PERIOD_SECONDS = 2.0


def measure(quick: bool) -> Section:
    """Count requests for some minutes after the plan became Ready."""
    seconds = 8 if quick else 180
    with ground(audit=True, period_seconds=PERIOD_SECONDS) as here:
        for pool in ("h100", "l40s", "a100"):
            here.nodes(pool, 4)
        here.namespace("rest")
        here.api.create(PLANS, example("rest"), namespace="rest")

        def ready() -> bool:
            status = here.api.get(PLANS, "chat", namespace="rest").get("status") or {}
            return any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions", ()))

        wait(ready, 120)
        time.sleep(2 * PERIOD_SECONDS)
        since, before = time.time(), _turns(here.log.read_text())
        time.sleep(seconds)
        turns = _turns(here.log.read_text()) - before
        verbs = [event["verb"] for event in here.requests(since)]
    writes = sum(1 for verb in verbs if verb not in ("get", "list"))
    return Section(
        "At rest",
        f"`examples/chat.yaml`, Ready, for {seconds} s with a turn due every {PERIOD_SECONDS:g} s (15 s by default); "
        "requests are counted in the API server's audit log.",
        (
            Row(f"writes in {turns} turns", str(writes), "0", writes == 0),
            Row("reads per turn", f"{(len(verbs) - writes) / max(1, turns):.1f}"),
        ),
    )


def _turns(log: str) -> int:
    return len(re.findall(r": turn of ", log))


if __name__ == "__main__":
    alone(measure)
