"""What the pods of a new replica ask of their node beside GPUs, and how long they may take to start."""

from __future__ import annotations

from servingplan.api.v1alpha1 import Model
from servingplan.model.fleet import PodNeeds
from servingplan.planning.cold_starts import start_limit_seconds
from servingplan.planning.layouts import Layout

PROCESSES_BESIDE_WORKERS = 2
"""vLLM runs one process for each GPU, one for its API and one for its scheduler, and slows down with fewer cores than processes
(vLLM, Optimization and Tuning, "CPU Resources for GPU Deployments")."""
MEMORY_BESIDE_WEIGHTS_BYTES = 8 * 2**30
"""Weights pass through the node's memory while they are loaded. KServe's example asks for 24 GiB for Llama 3 8B, whose weights
are 16 GB, so 8 more (KServe, "Deploy the Llama3 model with Hugging Face LLM Serving Runtime")."""
SHARE_TO_ASK_FOR = 0.5
"""The most that a pod asks for, as a share of what its node has for the GPUs of the pod. The rest is for pods without GPUs,
whose requests are not looked at: a replica must not stay without a node because of them. Nothing limits what a pod uses beyond
its request."""
CPU_STEP_MILLICORES = 100
MEMORY_STEP_BYTES = 2**30
"""Requests are whole steps: nodes of one type differ by a little, which is to change no template."""


def needs_of(model: Model, layout: Layout, weight_bytes: float, learned_start_seconds: float | None) -> PodNeeds:
    """The needs of each pod of a replica, by the smallest node that its pools have or had. ``weight_bytes``: of the replica."""
    cpu, memory = [], []
    for leg in layout.legs:
        pool, gpus = leg.pool, layout.gpus(leg) // layout.nodes(leg)
        share = SHARE_TO_ASK_FOR * gpus / max(1, pool.gpus_per_node)
        bytes_of_pod = MEMORY_BESIDE_WEIGHTS_BYTES + weight_bytes / layout.nodes_of_a_replica
        cpu.append(
            _at_most(1000 * (gpus + PROCESSES_BESIDE_WORKERS), pool.node_cpu_millicores, share, CPU_STEP_MILLICORES)
        )
        memory.append(_at_most(bytes_of_pod, pool.node_memory_bytes, share, MEMORY_STEP_BYTES))
    return PodNeeds(
        cpu_millicores=_least(cpu),
        memory_bytes=_least(memory),
        start_limit_seconds=start_limit_seconds(model.engine.startup_seconds, weight_bytes, learned_start_seconds),
    )


def _least(amounts: list[int | None]) -> int | None:
    """The least of the amounts, which a pod may ask for on any of its pools; None where one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return min(known) if len(known) == len(amounts) else None


def _at_most(wanted: float, of_node: int | None, share: float, step: int) -> int | None:
    """What is wanted, at most a share of what the node has, in whole steps; None where that is unknown, or below a step."""
    if of_node is None:
        return None
    return int(min(wanted, share * of_node) // step) * step or None
