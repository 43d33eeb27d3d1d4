"""Rates of all pairs of shape and class of a question, and what ``servingplan plan`` takes from the shell.

Processor time of one thread, least of several, since other programs share the machine. What is asked for the first time reads
tables and kernels; what is asked again has them, but not its answers. A process of its own has no answers either.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from benchmarks.ground import EXAMPLE
from benchmarks.report import Row, Section, alone
from servingplan.cli.imagine import imagined_world
from servingplan.model.engine import EngineSettings
from servingplan.planning.question import Posed, pose
from servingplan.planning.situation import Situation
from servingplan.profiles import latency, replicas
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.steps import step_times

GOAL_RATES_PER_SECOND = 1e5
GOAL_SECONDS = 1.5

_MODELS = {
    "llama-3.1-8b": "bf16",
    "llama-3.1-70b": "fp8",
    "qwen3-32b": "fp8",
    "qwen3-30b-a3b": "bf16",
    "gpt-oss-120b": "mxfp4",
    "mixtral-8x7b": "bf16",
    "gemma-3-27b": "bf16",
    "deepseek-r1": "fp8",
}
_GPUS = (
    *("H100-SXM-80GB", "H200-SXM-141GB", "B200-180GB", "GH200-96GB", "A100-SXM4-80GB"),
    *("L40S", "L4", "A10G", "RTX-PRO-6000-96GB", "MI300X"),
)
_LENGTHS = ((100, 1000), (200, 100), (500, 250), (1000, 1), (2000, 200), (4000, 400))
_STEPS = """
import json, time
used = [time.process_time()]
import servingplan.cli, servingplan.cli.show, servingplan.answering, servingplan.cli.imagine
from servingplan.solve.solver import program
program.load()
used.append(time.process_time())
import yaml
from servingplan.cli.imagine import imagined_world
from servingplan.planning.question import pose
from servingplan.planning.situation import Situation
from servingplan.solve import solve
situation = Situation(imagined_world(yaml.safe_load(open({path!r}))))
posed, _ = pose(spec=situation.spec, pools=situation.pools, incumbent=None)
used.append(time.process_time())
solve(posed.question)
used.append(time.process_time())
print(json.dumps([after - before for before, after in zip(used, used[1:])]))
"""


def measure(quick: bool) -> Section:
    """Both questions, the formulas alone, and the command."""
    runs = 1 if quick else 5
    example = yaml.safe_load(EXAMPLE.read_text())
    rows = [*_rates("examples/chat.yaml", example, runs), *_rates("a what-if question", what_if(), runs)]
    rows.append(_formulas(runs))
    seconds, parts = _command(runs)
    rows.append(
        Row(
            "`servingplan plan examples/chat.yaml`, whole process",
            f"{seconds:.2f} s",
            f"{GOAL_SECONDS:g} s",
            seconds < GOAL_SECONDS,
        )
    )
    names = ("loading modules", "posing the question", "solving")
    rows += [Row(f"of that, {name}", f"{part:.2f} s") for name, part in zip(names, parts, strict=True)]
    return Section("Rates", "Processor time of one thread, the least of some runs.", tuple(rows))


def what_if() -> Mapping[str, Any]:
    """A plan of eight models with six classes each and ten pools of eight GPUs."""
    classes = [
        {
            "name": f"{prompt}-{answer}",
            "inputTokens": prompt,
            "outputTokens": answer,
            "requestsPerSecond": "1",
            "match": {"inputTokensAtLeast": prompt},
        }
        for prompt, answer in _LENGTHS
    ]
    models = [
        {
            "name": name,
            "slo": {"ttftSeconds": "2", "tpotSeconds": "0.1"},
            "variants": [{"name": precision, "source": f"hf://{name}", "precision": precision}],
            "classes": classes,
        }
        for name, precision in _MODELS.items()
    ]
    pools = [
        {
            "name": gpu.lower(),
            "gpu": gpu,
            "gpusPerNode": 8,
            "dollarsPerNodeHour": "10",
            "maxNodes": 4,
            "nodeSelector": {"pool": gpu},
            "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": gpu.lower()},
        }
        for gpu in _GPUS
    ]
    for pool in pools:
        if str(pool["gpu"]).startswith("MI"):
            pool["engineImage"] = "vllm/vllm-openai-rocm:v0.18.0"
    return {
        "metadata": {"name": "what-if"},
        "spec": {"budget": {"dollarsPerHour": "1000"}, "models": models, "nodePools": pools},
    }


def posed(manifest: Mapping[str, Any]) -> Posed:
    """The question of a plan without a cluster."""
    situation = Situation(imagined_world(dict(manifest)))
    found, problems = pose(spec=situation.spec, pools=situation.pools, incumbent=None)
    assert not problems, problems
    return found


def _rates(name: str, manifest: Mapping[str, Any], runs: int) -> list[Row]:
    seconds = []
    pairs = 0
    for _ in range(runs + 1):
        replicas.forget()
        started = time.process_time()
        found = posed(manifest)
        seconds.append(time.process_time() - started)
        pairs = sum(len(facts.estimates) for facts in found.shapes.values())
    first, again = seconds[0], min(seconds[1:])
    rate = pairs / again
    return [
        Row(f"{name}: posed for the first time, {pairs} rates", f"{first:.2f} s, {pairs / first:.0f} rates/s"),
        Row(
            f"{name}: posed again, no answer remembered",
            f"{again:.2f} s, {rate:.0f} rates/s",
            f"{GOAL_RATES_PER_SECOND:.0f} rates/s",
            rate >= GOAL_RATES_PER_SECOND,
        ),
    ]


def _formulas(runs: int) -> Row:
    """Latencies and their percentiles at given loads, all in one call: the formulas without search, tables and objects."""
    steps = step_times(
        model=find_model("llama-3.1-8b"),
        precision="bf16",
        gpu=find_gpu("L40S"),
        tensor_parallel=1,
        pipeline_parallel=1,
        settings=EngineSettings(),
    )
    one = latency.tabulate(steps, np.linspace(100.0, 3000.0, 64), 200.0)
    loads = np.linspace(0.05, 0.9, 16) * latency.highest_rate(one)[:, None]
    seconds = []
    for _ in range(runs + 1):
        started = time.process_time()
        latency.open_loop(one, loads)
        seconds.append(time.process_time() - started)
    return Row("latencies with percentiles at given loads, formulas alone", f"{loads.size / min(seconds):.0f} loads/s")


def _command(runs: int) -> tuple[float, list[float]]:
    """Seconds of the whole process, and of its parts in a process that does them one by one; modules compiled before."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "servingplan", "plan", str(EXAMPLE)]
        whole = [_used(command, environment) for _ in range(runs + 1)][1:]
        script = [sys.executable, "-c", _STEPS.format(path=str(EXAMPLE))]
        parts = [
            json.loads(subprocess.run(script, check=True, capture_output=True, env=environment).stdout)
            for _ in range(runs + 1)
        ][1:]
    return min(whole), [min(part) for part in zip(*parts, strict=True)]


def _used(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    alone(measure)
