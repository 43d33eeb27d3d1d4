"""Reduces published times by running requests to the table that the profiles ship, ``data/measured_latency.csv``.

    python -m benchmarks.reduce_latencies SAMPLE.csv ONLINE.csv

SAMPLE.csv has rows of ``systems/silicon_sample.csv`` of aiconfigurator-core 0.12.0, ONLINE.csv those of the online-serving
tables of the TensorRT-LLM 0.14.0 performance overview (both Apache-2.0). Prints how many rows are left out, by reason.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

import servingplan.profiles
from servingplan.profiles import catalogue
from servingplan.profiles.rows import Row, impossible

FILE = Path(servingplan.profiles.__file__).parent / "data" / "measured_latency.csv"
KEY = ("model", "gpu", "precision", "tensor_parallel", "input_tokens", "output_tokens", "engine", "engine_version")
COLUMNS = (*KEY[:6], "concurrency", "ttft_seconds", "tpot_seconds", *KEY[6:], "expert_parallel", "dataset")

CARDS = {
    "b200_sxm": "B200-180GB",
    "b300_sxm": "B300-288GB",
    "gb200": "GB200-192GB",
    "h100_sxm": "H100-SXM-80GB",
    "h200_sxm": "H200-SXM-141GB",
}
ENGINES = {"trtllm": "tensorrt-llm"}
MOST_GPUS = 8
OVERLOAD_TTFT_SECONDS = 1.0
"""Online serving above it is an overload, which no number of running requests describes."""


def left_out(row):
    """Why a row of the sample says nothing that can be used; None where it does."""
    spread = _number(row["moe_tp_size"]) > 1 and _number(row["moe_ep_size"]) > 1
    gpu, model = CARDS[row["system"]], catalogue.find_model(row["model_path"]).name
    reasons = {
        "precision not stated": not row["precision"],
        "data-parallel attention": _number(row["attention_dp_size"]) > 1,
        "more than 8 GPUs": _number(row["tp_size"]) > MOST_GPUS,
        "tensor and expert parallelism mixed": spread,
        # By its two origins the same hardware differs threefold.
        "concurrency means two things": (model, gpu) == ("Llama-3.1-8B", "H200-SXM-141GB"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def sampled(row):
    """A row of the sample as one of ours."""
    model = catalogue.find_model(row["model_path"]).name
    precision = row["precision"]
    return {
        "model": model,
        "gpu": CARDS[row["system"]],
        "precision": "mxfp4" if precision == "fp4" and model.startswith("gpt-oss") else precision,
        "tensor_parallel": int(_number(row["tp_size"])),
        "input_tokens": int(row["isl"]),
        "output_tokens": int(row["osl"]),
        "concurrency": f"{_number(row['concurrency'] or row['batch_size']):g}",
        "ttft_seconds": f"{_number(row['silicon_ttft_ms']) / 1e3:.6f}",
        "tpot_seconds": f"{_number(row['silicon_tpot_ms']) / 1e3:.6f}",
        "engine": ENGINES.get(row["backend"], row["backend"]),
        "engine_version": row["backend_version"] or "unstated",
        "expert_parallel": "true" if _number(row["moe_ep_size"]) > 1 else "",
        "dataset": "aiconfigurator-core 0.12.0",
    }


def cannot_be(row):
    """Whether a row is above what its cards can compute."""
    concurrency, ttft, tpot = (float(row[name]) for name in ("concurrency", "ttft_seconds", "tpot_seconds"))
    rate = concurrency / (ttft + (row["output_tokens"] - 1) * tpot)
    measured = Row(
        model=row["model"],
        gpu=row["gpu"],
        precision=row["precision"],
        tp=row["tensor_parallel"],
        input=row["input_tokens"],
        output=row["output_tokens"],
        requests_per_second=rate,
    )
    return impossible(measured) is not None


def reduced(rows):
    """The rows that are kept, and how many are left out by reason. Of several runs of one point the first stands."""
    kept: dict[tuple[object, ...], dict[str, object]] = {}
    why: Counter[str] = Counter()
    for row in rows:
        reason = left_out(row)
        if reason is None:
            ours = sampled(row)
            point = *(ours[name] for name in KEY), ours["concurrency"], ours["expert_parallel"]
            reason = "another run of one point" if point in kept else "impossible" if cannot_be(ours) else None
            if reason is None:
                kept[point] = ours
        if reason is not None:
            why[reason] += 1
    return list(kept.values()), why


def online(rows):
    """Rows of online serving, with the running requests that Little's law gives."""
    for row in rows:
        ttft, token = float(row["mean_ttft_ms"]) / 1e3, float(row["mean_itl_ms"]) / 1e3
        if row["offered_qps"] == "INF" or ttft > OVERLOAD_TTFT_SECONDS:
            continue
        output = int(row["output_len"])
        running = float(row["output_tok_per_s"]) / output * (ttft + (output - 1) * token)
        yield {
            "model": catalogue.find_model(row["model"].replace("LLaMA ", "Llama-").replace(" ", "-")).name,
            "gpu": row["gpu"],
            "precision": row["precision"].lower(),
            "tensor_parallel": int(row["tp"]),
            "input_tokens": int(row["input_len"]),
            "output_tokens": output,
            "concurrency": f"{running:.4g}",
            "ttft_seconds": f"{ttft:.3f}",
            "tpot_seconds": f"{token:.3f}",
            "engine": row["engine"].partition("(")[0],
            "engine_version": row["engine_version"],
            "expert_parallel": "",
            "dataset": "TensorRT-LLM performance overview, online serving",
        }


def _number(text):
    return float(text or 0)


def _read(path):
    with Path(path).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def main():
    """Write the table, and say what is not in it."""
    kept, why = reduced(_read(sys.argv[1]))
    kept += online(_read(sys.argv[2]))
    kept.sort(key=lambda row: (*(row[name] for name in KEY), float(row["concurrency"])))
    with FILE.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    print(f"{len(kept)} rows written")
    for reason, number in why.most_common():
        print(f"{number:5d} left out: {reason}")


if __name__ == "__main__":
    main()
