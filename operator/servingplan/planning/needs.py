"""What the pods of a new replica request of their node beside GPUs."""

from __future__ import annotations

from servingplan.api.models_v1alpha1 import Model
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
"""The most that a pod requests, as a share of what its node has for the pod's GPUs. The rest is for pods without GPUs,
whose requests are not read: they must not keep a replica off every node. Nothing limits what a pod uses beyond its request."""
CPU_STEP_MILLICORES = 100
MEMORY_STEP_BYTES = 2**30
"""Requests are multiples of these steps. Nodes of one type differ by a little, which must not change a template."""


def needs_of(model: Model, layout: Layout, weight_bytes: float, learned_start_seconds: float | None) -> PodNeeds:
    """The needs of each pod of a replica, by the smallest node that its pools have or had. ``weight_bytes`` are those of
    the whole replica."""
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
    """The least of the amounts, so that a pod may request it on any of its pools; None if one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return min(known) if len(known) == len(amounts) else None


def _at_most(wanted: float, of_node: int | None, share: float, step: int) -> int | None:
    """The wanted amount, at most a share of what the node has, in whole steps; None if that is unknown or below one step."""
    if of_node is None:
        return None
    return int(min(wanted, share * of_node) // step) * step or None
