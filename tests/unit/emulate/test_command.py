"""The command as a process: the arguments of a rendered Deployment, SIGTERM, and a crash."""

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from servingplan.api.parse import parse_spec
from servingplan.model.engine import EngineSettings
from servingplan.render.deployment import replica_template


@contextmanager
def emulator(tmp_path, *arguments):
    """The process, and the port that it listens on."""
    ports = tmp_path / "ports.json"
    os.mkfifo(ports)  # reading waits until it is written
    command = [sys.executable, "-m", "servingplan", "emulate", *arguments, "--port=0", f"--ports-file={ports}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(ports.read_text())[0]["port"]
        finally:
            process.kill()


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    return urllib.request.urlopen(request, timeout=60)


@pytest.fixture
def rendered_arguments():
    spec, errors = parse_spec(
        {
            "budget": {"dollarsPerHour": "60"},
            "models": [
                {
                    "name": "chat",
                    "maxModelLen": 4096,
                    "variants": [
                        {"name": "fp8", "source": "hf://neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "precision": "fp8"}
                    ],
                    "classes": [
                        {"name": "all", "inputTokens": 500, "outputTokens": 200, "requestsPerSecond": "1"},
                    ],
                    "engine": {"extraArgs": ["--enable-prefix-caching", "--max-num-seqs", "64"]},
                }
            ],
            "nodePools": [
                {
                    "name": "l40s",
                    "gpu": "L40S",
                    "gpusPerNode": 2,
                    "dollarsPerNodeHour": "4",
                    "maxNodes": 1,
                    "nodeSelector": {"a": "b"},
                }
            ],
        }
    )
    assert spec is not None, errors
    template = replica_template(
        model=spec.models[0],
        variant=spec.models[0].variants[0],
        pool=spec.node_pools[0],
        tensor_parallel=2,
        pipeline_parallel=1,
        settings=EngineSettings(max_num_seqs=64, max_model_len=4096, shutdown_seconds=300),
    )
    return template["spec"]["containers"][0]["args"]


@pytest.mark.slow
def test_a_worker_of_a_replica_over_several_nodes_takes_no_requests_and_ends_when_it_is_told(rendered_arguments):
    of_a_group = ["--nnodes=2", "--node-rank=1", "--master-addr=leader", "--headless"]
    command = [sys.executable, "-m", "servingplan", "emulate", *rendered_arguments, *of_a_group, "--gpu=L40S"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "it takes no requests" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_rendered_replica_runs_and_its_stream_survives_sigterm(tmp_path, rendered_arguments):
    with emulator(tmp_path, *rendered_arguments, "--gpu=h100=H100-SXM-80GB,l40s=L40S", "--pool=l40s") as (
        process,
        port,
    ):
        body = {"model": "chat", "prompt": "abcd", "max_tokens": 40, "stream": True}
        with post(port, "/v1/completions", body) as stream:
            first = stream.readline()
            process.send_signal(signal.SIGTERM)
            rest = stream.read()
        assert first.startswith(b"data: ")
        assert rest.endswith(b"data: [DONE]\n\n")
        log = process.stderr.read()
        assert process.wait(60) == 0
    assert "ignored: --enable-prefix-caching" in log
    assert "Llama-3.1-8B fp8 on 2x1 L40S" in log
    assert "at most 64 sequences" in log


@pytest.mark.slow
def test_without_time_to_finish_a_stream_is_cut_at_sigterm(tmp_path):
    with emulator(tmp_path, "--model=llama-3.1-8b", "--gpu=L40S") as (process, port):
        with post(port, "/v1/completions", {"prompt": "abcd", "max_tokens": 8000, "stream": True}) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                stream.read()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_crash_ends_the_process(tmp_path):
    with emulator(tmp_path, "serve", "llama-3.1-8b", "--gpu", "L40S", "--fail_after", "0.05") as (process, _):
        assert process.wait(60) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "model"),
        (["--model=nobody/knows-it"], "not in the catalogue"),
        (["--model=llama-3.1-70b", "--gpu=L4"], "take more GPUs"),
        (["--model=llama-3.1-8b", "--speed=0"], "speed"),
        (["--model=llama-3.1-8b", "--fail-mode=wink"], "fail-mode"),
        (["--model=llama-3.1-8b", "--tensor-parallel-size=3"], "cannot share evenly"),
    ],
)
def test_wrong_input_is_named(arguments, said):
    import typer.testing

    from servingplan.cli import app
    from servingplan.errors import InputError

    result = typer.testing.CliRunner().invoke(app, ["emulate", *arguments])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_the_command_loads_neither_the_operator_nor_the_solver():
    loaded = subprocess.run(
        [sys.executable, "-c", "import servingplan.cli, servingplan.emulate.launch, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    spec = {"servingplan.api.v1alpha1", "servingplan.api.models_v1alpha1"}
    assert not ({"kopf", "pulp", "highspy", "kubernetes"} | spec) & set(loaded)
