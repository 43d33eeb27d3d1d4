"""What `make demo KEEP=1` left running is known by more than the number of its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from e2e import demo
from e2e.support.waiting import wait_for


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Writes down a process as that of the kept demonstration, and ends it after the test."""
    running = []
    monkeypatch.setattr(demo, "STATE", tmp_path / "demo.json")

    def make(*command):
        process = subprocess.Popen(command)
        running.append(process)
        wait_for("the kernel shows its command", Path(f"/proc/{process.pid}/cmdline").read_bytes, seconds=60)
        demo.STATE.write_text(json.dumps({"pid": process.pid}))
        return process

    yield make
    for process in running:
        process.kill()
        process.wait()


def test_a_process_that_has_its_number_by_now_is_not_ended(kept, capsys):
    stranger = kept("sleep", "600")
    assert demo._down() == 0
    assert stranger.poll() is None
    assert "no kept demonstration is up" in capsys.readouterr().out
    assert not demo.STATE.exists()


def test_its_own_process_is_ended(kept):
    holder = kept(sys.executable, "-c", "import signal; signal.pause()", "e2e.demo", "--hold")
    assert demo._is_up()
    assert demo._down() == 0
    assert holder.wait() != 0
    assert not demo._is_up()
