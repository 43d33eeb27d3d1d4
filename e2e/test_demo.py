"""``make demo KEEP=1``: the README's demonstration runs to its end, stays, and is of use without its operator."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from e2e.support.waiting import wait_for
from localcluster import binaries

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Runs ``e2e.demo`` with a cache of its own, so that no kept demonstration of somebody's is met; ends what it kept."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "bin").symlink_to(binaries.cache_folder() / "bin")
    environment = os.environ | {"SERVINGPLAN_CACHE": str(cache)}

    def run(*arguments):
        command = [sys.executable, "-m", "e2e.demo", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    assert "Traceback" not in run("--down")


@pytest.fixture(scope="module")
def kept(demo):
    """What the kept demonstration has printed."""
    return demo("--keep")


@pytest.fixture(scope="module")
def shell(kept):
    """Runs a command as somebody does who has pasted the lines that it printed."""

    def run(command):
        pasted = "\n".join(line for line in kept.splitlines() if line.startswith(("export ", "# ")))
        return subprocess.run(
            ["bash", "-ec", f"{pasted}\n{command}"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
        )

    return run


def printed(kept, pattern):
    (found,) = re.findall(pattern, kept)
    return found


def test_it_shows_a_plan_that_serves_and_a_lost_node_made_good(kept):
    assert "decided: plan" in kept
    assert "done: the status and the weights were without the lost replicas" in kept


def test_what_it_prints_is_there(kept, shell):
    for program in ("kubectl", "helm", "servingplan"):
        done = shell(f"command -v {program}")
        assert done.returncode == 0, program
    assert shell("servingplan status chat -n llm").returncode == 0
    with urllib.request.urlopen(f"http://{printed(kept, 'curl (.+/metrics)')}", timeout=60) as answer:
        assert 'servingplan_turns_total{plan="chat",plan_namespace="llm",result="done"}' in answer.read().decode()
    assert Path(printed(kept, "log of the operator: +(.+)")).stat().st_size > 0
    assert (Path(printed(kept, "logs of the cluster: +(.+)")) / "kube-apiserver.log").exists()


def test_it_goes_on_without_its_operator_and_the_chart_takes_over(kept, shell):
    operator = int(printed(kept, r"kill (\d+)"))
    os.kill(operator, signal.SIGTERM)
    wait_for("the operator has ended", lambda: _state(operator) in ("", "Z"), seconds=60)
    assert shell("kubectl get lsp chat -n llm -o name").stdout == "llmservingplan.servingplan.dev/chat\n"
    done = shell(printed(kept, r"#   (helm install .+)"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployed" in shell("helm status servingplan -n servingplan-system").stdout


def _state(pid):
    """The process's state as a letter, Z once it has ended; empty once nobody knows it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
