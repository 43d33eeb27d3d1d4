"""A real Prometheus as a child process: the one on the path, else Debian's package, unpacked into the user's cache folder.

``VERSION`` is the one the tests were written against.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from localcluster import debian
from localcluster.debian import NotToBeHadError as NotToBeHadError
from localcluster.ports import free_port

VERSION = "2.42"
START_SECONDS = 120
QUERY_SECONDS = 60


def program() -> Path:
    """Path of a Prometheus; fetches it first where it is missing. Raises ``NotToBeHadError``."""
    if found := shutil.which("prometheus"):
        return Path(found)
    return debian.unpacked("prometheus-debian", ("prometheus",)) / "usr" / "bin" / "prometheus"


def promtool() -> Path:
    """Path of the tool that comes with it. Raises ``NotToBeHadError``."""
    path = shutil.which("promtool") or program().with_name("promtool")
    if not Path(path).exists():
        raise NotToBeHadError(f"no promtool on the path, and none beside {program()}")
    return Path(path)


class PrometheusProcess:
    """Scrapes ``targets`` (host:port by job) every ``scrape_seconds``, and ``more`` jobs; ends with the block.

    ``labels`` (by job) are added to what is scraped; ``rules`` are files of rules, evaluated as often.
    """

    def __init__(
        self,
        folder: Path,
        targets: dict[str, str],
        *,
        more: Sequence[dict[str, Any]] = (),
        scrape_seconds: int = 1,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        rules: Sequence[Path] = (),
    ) -> None:
        self._folder = folder
        self._port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {
                "scrape_interval": f"{scrape_seconds}s",
                "scrape_timeout": f"{scrape_seconds}s",
                "evaluation_interval": f"{scrape_seconds}s",
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                *(
                    {
                        "job_name": job,
                        "static_configs": [{"targets": [target], "labels": dict((labels or {}).get(job, {}))}],
                    }
                    for job, target in targets.items()
                ),
                *more,
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Until it is ready."""
        command = [
            str(program()),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"Prometheus did not start: {(self._folder / 'log').read_text()[-800:]}")
            time.sleep(0.05)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now. Raises ``HTTPError`` where it is no query."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=QUERY_SECONDS) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def value(self, query: str) -> float:
        """The value of the first series that a query finds; 0 where there is none."""
        rows = self.rows(query)
        return float(rows[0]["value"][1]) if rows else 0.0

    def stop(self) -> None:
        """Kill it, as a lost node would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
