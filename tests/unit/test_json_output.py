"""Standard output of every command that prints JSON is JSON and nothing else, in a process of its own: what a dependency
says when it is loaded would come first. `make newest` and `make lowest` run this too."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import typer.testing

from servingplan.cli import app
from tests.unit.classes.test_command import written

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN, QUESTION = REPOSITORY / "examples/chat.yaml", REPOSITORY / "examples/questions/p1-worked-example.json"
REPLICA = ("--model", "llama-3.1-8b", "--gpu", "L40S", "--input", "500", "--output", "100")
ROWS = "model,gpu,precision,input,output,engine,engine_version,requests_per_second\n"
ROW = "llama-3.1-8b,L40S,bf16,500,100,vllm,0.19.0,4.0\n"


def commands(command=None, path=()):
    """Every command by its words."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


def prints_json(path):
    """Whether `-o json` is among its choices."""
    return re.search(r"<[a-z|]*\bjson\b[a-z|]*>", typer.testing.CliRunner().invoke(app, [*path, "--help"]).stdout)


@pytest.fixture
def arguments(tmp_path):
    """What each command needs besides `-o json`."""
    (tmp_path / "rows.csv").write_text(ROWS + ROW)
    answer = tmp_path / "answer.json"
    answer.write_text(run("solve", QUESTION))
    return {
        "plan": [PLAN],
        "render": [PLAN],
        "explain": [PLAN],
        "solve": [QUESTION],
        "verify": [QUESTION, answer],
        "classes fit": ["--from", written(tmp_path / "log.csv")],
        "profile lookup": REPLICA,
        "profile table": ["--model", "llama-3.1-8b"],
        "profile models": ["llama-3.1"],
        "profile gpus": ["L40S"],
        "profile import": [tmp_path / "rows.csv"],
        "profile check": ["--table", tmp_path / "rows.csv"],
        "frontier": [PLAN, "--budget", "60:80:2"],
        "replay": [PLAN, "--generate", "5"],
    }


OF_A_CLUSTER = {"approve", "diff", "doctor", "history", "status", "top"}
"""Commands that ask a cluster; ``tests/contract`` reads their JSON."""


def run(*words):
    """Standard output of a command in a process of its own."""
    command = [sys.executable, "-m", "servingplan", *map(str, words), "-o", "json"]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def test_standard_output_is_json_and_nothing_else(arguments):
    able = {" ".join(path) for path in commands() if prints_json(path)} - OF_A_CLUSTER
    assert able, "no command was found"
    assert able <= arguments.keys(), "a new command that prints JSON needs a line here"
    for name in sorted(able):
        assert json.loads(run(*name.split(), *arguments[name])) is not None, name
