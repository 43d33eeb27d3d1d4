"""The plans of a cluster over HTTP: a list, and a page of each. Nothing is written, and no secret is read.

Whoever reaches the port sees the plans. So it listens on this machine alone unless it is told otherwise, and answers only to
the names that it is told are its own: a page of somebody else's cannot read it through a name that leads here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from aiohttp import web

from servingplan.errors import ApiError, InputError
from servingplan.model.world import Observation, PlanObject
from servingplan.planning.situation import Situation
from servingplan.report.page import list_html
from servingplan.ui.pages import NoPlanError, changed, page_of

KEPT_SECONDS = 10.0
"""A page is made anew after so long, when somebody asks."""
MOST_KEPT = 64
"""Pages that are kept."""
SOLVE_SECONDS = 5.0
"""The explanation and the curve of a page take no longer each."""
LARGEST = Decimal(10) ** 9
"""The largest budget, and the largest factor, that is tried."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Ui:
    """Serves pages.

    Args:
        plans: all plans of the moment.
        observe: what a turn of a plan would see now; None where the plan is gone.
        what_if: whether a changed plan may be tried.
        own_names: names under which visitors come, as in the header ``Host`` without its port; beside these, addresses of
            the loopback do. None: every name.
    """

    def __init__(
        self,
        plans: Callable[[], Sequence[PlanObject]],
        observe: Callable[[str, str], Observation | None],
        *,
        what_if: bool = False,
        own_names: frozenset[str] | None = frozenset({"localhost"}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plans, self._observe = plans, observe
        self._what_if, self._own_names = what_if, own_names
        self._clock = clock
        self._one = asyncio.Lock()
        self._kept: dict[tuple[Any, ...], tuple[float, str]] = {}

    def application(self) -> web.Application:
        """The routes: ``/``, ``/plans/NAMESPACE/NAME`` and ``/healthz``, all of them GET."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._list)
        app.router.add_get("/plans/{namespace}/{name}", self._plan)
        app.router.add_get("/healthz", self._healthy)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._own_names is not None and not _is_own_name(request.host, self._own_names):
            names = ", ".join(sorted(self._own_names))
            raise web.HTTPForbidden(text=f"this server answers to {names} only\n", headers=HEADERS)
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        answer.headers.update(HEADERS)
        return answer

    async def _healthy(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok\n")

    async def _list(self, request: web.Request) -> web.Response:
        del request
        plans = sorted(self._plans(), key=lambda plan: plan.key)
        return _html(list_html([_row(plan) for plan in plans]))

    async def _plan(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        tried: dict[str, Decimal | None] = {"budget": None, "demand": None}
        for field in tried:
            text = request.query.get(field, "").strip()
            if not text:
                continue
            if not self._what_if:
                raise web.HTTPForbidden(text="start the server with --what-if to try a changed plan\n")
            tried[field] = _number(field, text)
        key = (namespace, name, *tried.values())
        async with self._one:  # one search at a time
            made = self._kept.get(key)
            if made is None or self._clock() - made[0] > KEPT_SECONDS:
                text = await asyncio.to_thread(self._made, namespace, name, **tried)
                self._kept.pop(key, None)
                while len(self._kept) >= MOST_KEPT:
                    self._kept.pop(next(iter(self._kept)))
                made = self._kept[key] = self._clock(), text
        return _html(made[1])

    def _made(self, namespace: str, name: str, budget: Decimal | None, demand: Decimal | None) -> str:
        try:
            world = self._observe(namespace, name)
        except ApiError as error:
            raise web.HTTPBadGateway(text=f"the plan cannot be read: {error}\n") from error
        if world is None:
            raise web.HTTPNotFound(text="there is no such plan\n")
        links = {
            "now": world.now,
            "what_if": self._what_if,
            "budget": None if budget is None else f"{budget:f}",
            "demand": None if demand is None else f"{demand:f}",
        }
        try:
            situation = Situation(changed(world, budget=budget, demand=demand))
            return page_of(situation, deadline_seconds=SOLVE_SECONDS, links=links)
        except NoPlanError as error:
            raise web.HTTPUnprocessableEntity(text=f"{error}\n") from error
        except InputError as error:
            raise web.HTTPUnprocessableEntity(text=f"{error}\n") from error


def _row(plan: PlanObject) -> dict[str, Any]:
    """One plan of the list, as its status has it."""
    status = plan.status
    cost = status.get("cost") if isinstance(status.get("cost"), dict) else {}
    conditions = {item.get("type"): item for item in status.get("conditions") or () if isinstance(item, dict)}
    ready = conditions.get("Ready", {})
    return {
        "namespace": plan.namespace,
        "name": plan.name,
        "served": str(status.get("served") or ""),
        "dollars": str((cost or {}).get("spendPerHour") or ""),
        "ready": str(ready.get("status") or ""),
        "why": str(ready.get("message") or ""),
    }


def _number(field: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise web.HTTPBadRequest(text=f"{field}: {text[:60]!r}: must be a number\n") from error
    if not value.is_finite() or not 0 < value <= LARGEST:
        raise web.HTTPBadRequest(text=f"{field}: {text[:60]!r}: must be above 0 and at most {LARGEST:g}\n")
    return value


def _html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8")


def _is_own_name(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header has one of the names, or an address of the loopback."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if name.lower() in names:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
