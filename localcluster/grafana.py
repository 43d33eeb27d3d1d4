"""A real Grafana as a child process, where somebody has one: no registry that the tests use carries it.

The variable ``GRAFANA_HOME`` names its folder, as unpacked from a release: ``bin/grafana``, ``conf``, ``public``. Dashboards
and the data source are provisioned from files, as the sidecar of its chart does it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from localcluster.debian import NotToBeHadError
from localcluster.ports import free_port

START_SECONDS = 180
QUERY_SECONDS = 60
SOURCE = "prometheus-here"
"""Uid of the data source."""


def home() -> Path:
    """Grafana's folder. Raises ``NotToBeHadError``."""
    named = os.environ.get("GRAFANA_HOME", "")
    if not (Path(named) / "bin" / "grafana").exists():
        raise NotToBeHadError("GRAFANA_HOME does not name the folder of a Grafana (bin/grafana, conf, public)")
    return Path(named)


class GrafanaProcess:
    """Shows the dashboards of these files, over a Prometheus at ``prometheus_url``; ends with the block."""

    def __init__(self, folder: Path, dashboards: list[Path], prometheus_url: str) -> None:
        self._home, self._folder, self._port = home(), folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        shown = folder / "dashboards"
        shown.mkdir(parents=True)
        for path in dashboards:
            shutil.copy(path, shown)
        self._provision(
            "dashboards", {"providers": [{"name": "files", "type": "file", "options": {"path": str(shown)}}]}
        )
        source = {"name": "here", "uid": SOURCE, "type": "prometheus", "url": prometheus_url, "isDefault": True}
        self._provision("datasources", {"datasources": [source]})

    def __enter__(self) -> Self:
        settings = {
            "GF_PATHS_DATA": self._folder / "data",
            "GF_PATHS_LOGS": self._folder / "log",
            "GF_PATHS_PLUGINS": self._folder / "plugins",
            "GF_PATHS_PROVISIONING": self._folder / "provisioning",
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": self._port,
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_ANONYMOUS_ORG_ROLE": "Admin",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        }
        with (self._folder / "grafana.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._home / "bin" / "grafana"), "server", f"--homepath={self._home}"],
                env={**os.environ, **{name: str(value) for name, value in settings.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.get("/api/health")
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    words = (self._folder / "grafana.log").read_text()[-2000:]
                    raise AssertionError(f"Grafana does not answer: {error}\n{words}") from error
                time.sleep(0.2)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=QUERY_SECONDS)

    def words(self) -> str:
        """What it has logged."""
        return (self._folder / "grafana.log").read_text()

    def get(self, path: str) -> Any:
        """What it answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=QUERY_SECONDS) as answer:
            return json.load(answer)

    def rows_of(self, query: dict[str, Any], *, minutes: int = 5) -> list[Any]:
        """Data frames that a panel's query finds in the last minutes, asked as its pages ask. Raises ``OSError``."""
        now = int(time.time() * 1000)
        asked = {**query, "datasource": {"type": "prometheus", "uid": SOURCE}, "intervalMs": 1000, "maxDataPoints": 500}
        body = {"queries": [asked], "from": str(now - minutes * 60_000), "to": str(now)}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/ds/query",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=QUERY_SECONDS) as answer:
            result: dict[str, Any] = json.load(answer)["results"][query["refId"]]
        if "error" in result:
            raise OSError(f"{query['expr']}: {result['error']}")
        return [frame for frame in result.get("frames", ()) if frame["data"]["values"]]

    def _provision(self, kind: str, content: dict[str, Any]) -> None:
        path = self._folder / "provisioning" / kind / "here.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump({"apiVersion": 1, **content}))
