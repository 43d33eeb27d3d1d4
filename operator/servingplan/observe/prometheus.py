"""The one adapter to Prometheus, the only importer of ``prometheus_api_client``.

Every query ends within ``DEADLINE_SECONDS`` and ``LARGEST_ANSWER_BYTES``. It follows no redirect, uses no proxy, and sends only
the source's credentials. It returns rows or raises ``NoAnswer``, whose text is for the log and never quotes an answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, override

import requests
import urllib3
import urllib3.connection
import urllib3.exceptions
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util.retry import Retry

from servingplan.demand.signals import Query
from servingplan.observe.asking import ends_within
from servingplan.observe.urls import NoAnswer

DEADLINE_SECONDS = 5.0
"""The longest time of one query, from the first byte sent to the last byte read."""
LARGEST_ANSWER_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Source:
    """A Prometheus and how to ask it."""

    url: str
    """The base URL of its API."""
    host: str | None = None
    """The value of the header ``Host`` if the URL has an address instead of the name."""
    token_file: str = ""
    """The file of the bearer token, which is read for each query. Empty: no token is sent."""
    ca_file: str = ""
    """The file of the certificates that verify the server. Empty: the system's certificates."""

    def headers(self) -> dict[str, str]:
        """The headers of a query. Raises ``NoAnswer`` if the token cannot be read."""
        found = {} if self.host is None else {"host": self.host}
        if self.token_file:
            try:
                found["authorization"] = f"Bearer {Path(self.token_file).read_text().strip()}"
            except (OSError, UnicodeDecodeError) as error:
                raise NoAnswer(f"the token in {self.token_file} cannot be read: {error}") from error
        return found


class _Http(urllib3.connection.HTTPConnection):
    """An HTTP connection that also bounds the time of the answer's headers."""

    @override
    def getresponse(self) -> Any:
        with ends_within(self.sock, DEADLINE_SECONDS):
            return super().getresponse()


class _Https(urllib3.connection.HTTPSConnection):
    """The same with TLS."""

    @override
    def getresponse(self) -> Any:
        with ends_within(self.sock, DEADLINE_SECONDS):
            return super().getresponse()


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


class BoundedSession(requests.Session):
    """An HTTP session with bounds on time and size, without redirects."""

    @override
    def get_adapter(self, url: str) -> BaseAdapter:
        adapter = super().get_adapter(url)
        if isinstance(adapter, HTTPAdapter):
            adapter.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return adapter

    @override
    def request(self, *args: Any, **more: Any) -> requests.Response:
        end = time.monotonic() + DEADLINE_SECONDS
        more.update(stream=True, allow_redirects=False, timeout=DEADLINE_SECONDS)
        answer = super().request(*args, **more)
        body = bytearray()
        try:
            # read1 returns what has arrived: it does not wait for a slow server to fill a buffer.
            while chunk := answer.raw.read1(65536, decode_content=True):
                body += chunk
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise NoAnswer(f"its answer is larger than {LARGEST_ANSWER_BYTES >> 20} MiB; narrow the query")
                if time.monotonic() > end:
                    raise NoAnswer(f"it did not answer within {DEADLINE_SECONDS:g} s")
        finally:
            answer.close()
        answer._content = bytes(body)
        return answer


def ask(source: Source, query: Query, now: float, *, reach: int) -> Sequence[dict[str, Any]]:
    """The rows of the answer. A range query covers ``reach`` seconds until ``now``. Raises ``NoAnswer``."""
    headers = source.headers()
    session = BoundedSession()
    session.verify = source.ca_file or True
    session.trust_env = False  # use no proxy and no netrc file of the operator's environment
    # Without read=False a late answer would be reported as an unreachable server.
    client = PrometheusConnect(url=source.url.rstrip("/"), headers=headers, session=session, retry=Retry(0, read=False))
    try:
        if query.step_seconds is None:
            rows = client.custom_query(query.text, params={"time": f"{now:.3f}"})
        else:
            step = query.step_seconds
            end = datetime.fromtimestamp(now - now % step, UTC)
            begin = datetime.fromtimestamp(now - now % step - reach, UTC)
            rows = client.custom_query_range(query.text, begin, end, str(step))
    except PrometheusApiClientException as error:
        # "HTTP Status Code 400 (b'...')": only the code is reported, since the rest is the server's text.
        raise NoAnswer(f"it answered with HTTP status {str(error).split()[3:4][0]}") from error
    except (requests.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise NoAnswer("its answer is not what the API of Prometheus promises") from error
    except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:  # before or during its answer
        raise NoAnswer(f"it did not answer within {DEADLINE_SECONDS:g} s") from error
    except requests.RequestException as error:
        raise NoAnswer("it cannot be reached") from error
    except (OSError, ValueError) as error:
        raise NoAnswer("the connection broke") from error
    except Exception as error:
        if type(error).__module__.startswith("urllib3"):  # raised while the body is read
            raise NoAnswer("the connection broke") from error
        raise
    finally:
        session.close()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise NoAnswer("its answer is not what the API of Prometheus promises")
    return rows
