"""The one adapter to Prometheus, the only importer of ``prometheus_api_client``.

Every query ends within ``DEADLINE_SECONDS`` and ``LARGEST_ANSWER_BYTES``, follows no redirect, and gives rows or raises
``ReadingError``, whose text never quotes an answer: a status may be read by others than the answer is meant for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, override

import requests
import urllib3.exceptions
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from servingplan.demand.signals import Query

DEADLINE_SECONDS = 5.0
"""Of one query, from the first byte sent to the last one read."""
LARGEST_ANSWER_BYTES = 8 * 2**20


class ReadingError(Exception):
    """Prometheus gave no usable answer; the text does not change while the cause does not."""


class BoundedSession(requests.Session):
    """HTTP with an end: in time, in size, and without following redirects."""

    @override
    def request(self, *args: Any, **more: Any) -> requests.Response:
        end = time.monotonic() + DEADLINE_SECONDS
        more.update(stream=True, allow_redirects=False, timeout=DEADLINE_SECONDS)
        answer = super().request(*args, **more)
        body = bytearray()
        try:
            # read1 returns what is there: a server that drips is not waited for to fill a buffer.
            while chunk := answer.raw.read1(65536, decode_content=True):
                body += chunk
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise ReadingError(f"its answer is larger than {LARGEST_ANSWER_BYTES >> 20} MiB; narrow the query")
                if time.monotonic() > end:
                    raise ReadingError(f"it did not answer within {DEADLINE_SECONDS:g} s")
        finally:
            answer.close()
        answer._content = bytes(body)
        return answer


def ask(url: str, query: Query, now: float, *, reach: int) -> Sequence[dict[str, Any]]:
    """The rows of an answer; a range query covers ``reach`` seconds until ``now``."""
    session = BoundedSession()
    # Without read=False a late answer would be told as a server that cannot be reached.
    client = PrometheusConnect(url=url.rstrip("/"), session=session, retry=Retry(0, read=False))
    try:
        if query.step_seconds is None:
            rows = client.custom_query(query.text, params={"time": f"{now:.3f}"})
        else:
            step = query.step_seconds
            end = datetime.fromtimestamp(now - now % step, UTC)
            begin = datetime.fromtimestamp(now - now % step - reach, UTC)
            rows = client.custom_query_range(query.text, begin, end, str(step))
    except PrometheusApiClientException as error:
        # "HTTP Status Code 400 (b'...')": only the code is told, the rest may be of any origin.
        raise ReadingError(f"it answered with HTTP status {str(error).split()[3:4][0]}") from error
    except (requests.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ReadingError("its answer is not what the API of Prometheus promises") from error
    except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:  # before its answer, and within it
        raise ReadingError(f"it did not answer within {DEADLINE_SECONDS:g} s") from error
    except requests.RequestException as error:
        raise ReadingError("it cannot be reached") from error
    except (OSError, ValueError) as error:
        raise ReadingError("the connection broke") from error
    except Exception as error:
        if type(error).__module__.startswith("urllib3"):  # raised while the body is read
            raise ReadingError("the connection broke") from error
        raise
    finally:
        session.close()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ReadingError("its answer is not what the API of Prometheus promises")
    return rows
