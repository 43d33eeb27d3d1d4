"""Reduces measured kernel times to the table that the profiles ship: ``operator/servingplan/profiles/data/kernels.npz``.

    uv run --with pyarrow --with aiconfigurator-core==0.12.0 python -m benchmarks.reduce_kernels [FOLDER]

FOLDER is ``systems/data`` of the package aiconfigurator-core 0.12.0 (Apache-2.0); default: of the installed package. Its
tables hold some million times of single kernels by card, engine and size. What is kept of them is, on a regular grid of the
logarithms of the sizes, the logarithm of

    measured time / (roofline time at the card's peaks + 2 microseconds)

which varies far less than the time itself, so that few points say it all. ``servingplan.profiles.kernels`` has the
rooflines and reads the table. Points that a card lacks are taken from the nearest measured size.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from servingplan.profiles import kernels as k

_NEWEST = (("vllm", "0.24.0"), ("trtllm", "1.3.0rc20"), ("sglang", "0.5.14"))
SYSTEMS = {
    # system of the package: engines and versions whose kernels are looked at
    "a100_sxm": (("vllm", "0.14.0"), ("trtllm", "1.0.0"), ("sglang", "0.5.10")),
    "l40s": _NEWEST,
    "h100_sxm": _NEWEST,
    "h200_sxm": _NEWEST,
    "b200_sxm": _NEWEST,
    "b300_sxm": _NEWEST,
    "gb200": _NEWEST,
    "gb300": _NEWEST,
    "rtx_pro_6000_server": _NEWEST,
}
FORMATS = {  # names of the package: ours
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "fp4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
}


def columns(folder: Path, system: str, operation: str, name: str):
    """Tables of one operation, one an engine, as dictionaries of arrays."""
    from pyarrow import parquet

    for engine, version in SYSTEMS[system]:
        path = folder / system / operation / engine / version / f"{name}.parquet"
        if path.exists():
            table = parquet.read_table(path)
            yield {column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names}


def spread(points: np.ndarray, values: np.ndarray, axes: tuple[np.ndarray, ...], width: float) -> np.ndarray:
    """Values on a grid from scattered ones: a Gaussian mean over so many e-folds, far from any point the nearest one."""
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    out = np.empty(len(grid))
    for start in range(0, len(grid), 256):
        near = ((grid[start : start + 256, None, :] - points[None, :, :]) ** 2).sum(axis=-1)
        near -= near.min(axis=1, keepdims=True)
        weight = np.exp(-near / (2 * width**2))
        out[start : start + 256] = (weight * values).sum(axis=1) / weight.sum(axis=1)
    return out.reshape([len(axis) for axis in axes])


def best_of(sizes: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each size once, with the fastest kernel that was measured for it: the engine chooses by size."""
    unique, index = np.unique(sizes, axis=0, return_inverse=True)
    fastest = np.full(len(unique), np.inf)
    np.minimum.at(fastest, index.ravel(), seconds)
    return unique, fastest


def gemm(folder: Path, system: str, card: k.Peaks):
    """By weight format: matrix products, over (tokens, columns, rows)."""
    for table in columns(folder, system, "gemm", "gemm_perf"):
        for theirs in np.unique(table["gemm_dtype"]):
            name = FORMATS.get(theirs)
            if name is None:
                continue
            rows = table["gemm_dtype"] == theirs
            sizes = np.stack([table[axis][rows] for axis in "mnk"], axis=1).astype(float)
            if len(sizes) < 3000:
                continue
            sizes, seconds = best_of(sizes, table["latency"][rows] * 1e-3)
            ratio = np.log(seconds / (k.gemm_roof(card, name, *sizes.T) + k.FLOOR_SECONDS))
            yield f"gemm/{name}", by_matrix(np.log(sizes), ratio)


def by_matrix(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``spread`` for matrix products: over the tokens for one measured matrix at a time, the nearest to each of the grid."""
    matrices, index = np.unique(points[:, 1:].round(6), axis=0, return_inverse=True)
    tokens, *widths = k.GEMM_AXES
    grid = np.stack(np.meshgrid(*widths, indexing="ij"), axis=-1).reshape(-1, 2)
    nearest = ((grid[:, None, :] - matrices[None]) ** 2).sum(axis=-1).argmin(axis=1)
    lines = {
        matrix: spread(points[index == matrix, :1], values[index == matrix], (tokens,), 0.12)
        for matrix in np.unique(nearest)
    }
    return np.stack([lines[matrix] for matrix in nearest], axis=1).reshape([len(axis) for axis in k.GEMM_AXES])


def generation_attention(folder: Path, system: str, card: k.Peaks):
    """By KV format: one token for each running request, over (KV heads x requests, context, heads a KV head, head)."""
    for table in columns(folder, system, "attention", "generation_attention_perf"):
        window = table.get("window_size", np.zeros(len(table["step"])))
        kv_heads = np.where(table["num_key_value_heads"] == 0, table["num_heads"], table["num_key_value_heads"])
        for theirs, name in (("bfloat16", "bf16"), ("fp8", "fp8")):
            rows = (table["kv_cache_dtype"] == theirs) & (window == 0) & (table["step"] >= 15)
            if not rows.any():
                continue
            heads = kv_heads[rows].astype(float)
            batch, context = table["batch_size"][rows].astype(float), table["step"][rows] + 1.0
            group, width = table["num_heads"][rows] / heads, table["head_dim"][rows].astype(float)
            roof = k.generation_roof(card, name, batch, context, heads, group, width)
            ratio = np.log(table["latency"][rows] * 1e-3 / (roof + k.FLOOR_SECONDS))
            points = np.log(np.stack([batch * heads, context, group, width], axis=1))
            yield f"generation/{name}", spread(points, ratio, k.GENERATION_AXES, 0.35)


def context_attention(folder: Path, system: str, card: k.Peaks):
    """Prompts, causal, over (heads x prompts, tokens, head)."""
    for table in columns(folder, system, "attention", "context_attention_perf"):
        window = table.get("window_size", np.zeros(len(table["isl"])))
        rows = (
            (np.isin(table["kv_cache_dtype"], ["bfloat16", "float16"]))
            & (window == 0)
            & (table["isl"] >= 16)
            & (table["step"] == 0)
        )
        batch, tokens = table["batch_size"][rows].astype(float), table["isl"][rows].astype(float)
        heads, width = table["num_heads"][rows].astype(float), table["head_dim"][rows].astype(float)
        roof = k.context_roof(card, batch, tokens, 0.0, heads, width)
        ratio = np.log(table["latency"][rows] * 1e-3 / (roof + k.FLOOR_SECONDS))
        points = np.log(np.stack([batch * heads, tokens, width], axis=1))
        yield "context/bf16", spread(points, ratio, k.CONTEXT_AXES, 0.35)


def experts(folder: Path, system: str, card: k.Peaks):
    """By weight format: the experts of a layer on one GPU, over (tokens an expert, weights of an expert, experts)."""
    for table in columns(folder, system, "moe", "moe_perf"):
        for theirs in np.unique(table["moe_dtype"]):
            name = FORMATS.get(theirs)
            if name is None:
                continue
            skewed = np.char.startswith(table["distribution"].astype(str), "power_law_1.")
            rows = (table["moe_dtype"] == theirs) & skewed
            get = lambda axis, rows=rows, table=table: table[axis][rows].astype(float)  # noqa: E731
            sizes = np.stack(
                [
                    get("num_tokens"),
                    get("topk"),
                    get("num_experts"),
                    get("moe_ep_size"),
                    get("hidden_size"),
                    get("inter_size") / get("moe_tp_size"),
                ],
                axis=1,
            )
            if len(sizes) < 300:
                continue
            sizes, seconds = best_of(sizes, table["latency"][rows] * 1e-3)
            tokens, chosen, number, spread_over, hidden, width = sizes.T
            roof = k.experts_roof(card, name, tokens, chosen, number, spread_over, hidden, width)
            ratio = np.log(seconds / (roof + k.FLOOR_SECONDS))
            points = np.log(np.stack([tokens * chosen / number, hidden * width, number / spread_over], axis=1))
            yield f"experts/{name}", spread(points, ratio, k.EXPERTS_AXES, 0.4)


def all_reduce(folder: Path, system: str, card: k.Peaks):
    """Sum over the GPUs of a group, over (GPUs, bytes): the fastest that any engine or NCCL version reached.

    The fastest, because what a sum takes over PCIe depends on the machine as well: without peer access between all cards of
    the one L40S machine, sums over four are thirty times slower in most versions than in the one that copes.
    """
    from pyarrow import parquet

    seconds: dict[tuple[float, float], float] = {}
    for path in sorted((folder / system / "comm").glob("*/*/*_perf.parquet")):
        if path.stem not in ("custom_allreduce_perf", "nccl_perf"):
            continue
        table = parquet.read_table(path)
        get = {column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names}
        rows = np.ones(table.num_rows, dtype=bool)
        if path.stem == "nccl_perf":
            rows = (get["op_name"] == "all_reduce") & (get["nccl_dtype"] == "half")
        elif "backend" in get:
            rows = ~np.char.endswith(get["backend"].astype(str), "eager")
        for gpus, size, latency in zip(
            get["num_gpus"][rows], get["message_size"][rows], get["latency"][rows], strict=True
        ):
            # Messages are counted in 16-bit elements.
            key = float(gpus), float(size) * 2
            seconds[key] = min(seconds.get(key, np.inf), float(latency) * 1e-3)
    points = np.array(list(seconds))
    ratio = np.log(np.array(list(seconds.values())) / (k.all_reduce_roof(card, *points.T) + k.FLOOR_SECONDS))
    yield "all_reduce", spread(np.log(points), ratio, k.ALL_REDUCE_AXES, 0.15)


def main():
    """Write the table."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        import aiconfigurator_core

        folder = Path(aiconfigurator_core.__file__).parent / "systems" / "data"
    found: dict[str, np.ndarray] = {}
    for system in SYSTEMS:
        card = k.TABLE_PEAKS[system]
        for operation in (gemm, generation_attention, context_attention, experts, all_reduce):
            for name, values in operation(folder, system, card):
                key = f"{system}/{name}"
                # The fastest kernel of any engine: they learn from one another, and an engine's own pace is a factor.
                found[key] = np.minimum(found.get(key, np.inf), values)
                print(f"{key}: {values.shape}, {values.min():.2f} to {values.max():.2f}", flush=True)
    for system in SYSTEMS:
        # Where blocks with scales of their own are faster, an engine uses that kernel for one scale a matrix as well.
        plain, blocks = f"{system}/experts/fp8", f"{system}/experts/fp8_block"
        if plain in found and blocks in found:
            found[plain] = np.minimum(found[plain], found[blocks])
    # Any, since by numpy's types one more keyword of savez, which no array is named like, takes a bool.
    halves: dict[str, Any] = {key: values.astype(np.float16) for key, values in found.items()}
    np.savez(Path(k.__file__).parent / "data" / "kernels.npz", **halves)


if __name__ == "__main__":
    main()
