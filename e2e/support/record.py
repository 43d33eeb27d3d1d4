"""Moments that a plan's record keeps. The clock is not a story's to move, so these are: what was to last is over at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from e2e.support.scene import Scene
from e2e.support.waiting import wait_for
from servingplan.errors import Conflict
from servingplan.kube import CONFIG_MAPS
from servingplan.model.times import later

Json = dict[str, Any]


def let_caps_end(scene: Scene, *, name: str = "chat") -> None:
    """The caps that a plan has learned are over."""
    known = {pool: stock["cap"]["since"] for pool, stock in _stocks(scene, name).items() if stock["cap"] is not None}

    def end(stocks: Json) -> bool:
        caps = {pool: stock["cap"] for pool, stock in stocks.items() if stock["cap"] is not None}
        left = [cap for pool, cap in caps.items() if cap["since"] == known.get(pool) and not cap["probing"]]
        for cap in left:
            cap["until"] = cap["since"]
        return bool(left)

    _edit(scene, name, "the caps are over", end)


def let_patience_end(scene: Scene, pool: Json, *, name: str = "chat") -> None:
    """A pool was asked for its nodes an hour earlier than it was."""
    begun = _stocks(scene, name)[pool["name"]]["short_since"]
    assert begun is not None, "no node of the pool is missing"

    def begin_earlier(stocks: Json) -> bool:
        stock = stocks[pool["name"]]
        left = stock["short_since"] == begun and stock["cap"] is None
        if left:
            stock["short_since"] = later(begun, -3600)
        return bool(left)

    _edit(scene, name, "its patience is over", begin_earlier)


def _edit(scene: Scene, name: str, what: str, change: Callable[[Json], bool]) -> None:
    """Change what the record knows of pools until there is nothing to change: the operator may be about to write the record
    as it read it before."""

    def is_done() -> bool:
        found = _read(scene, name)
        record = json.loads(found["data"]["plan.json"])
        if not change(record["stock"]):
            return True
        text = json.dumps(record, sort_keys=True, indent=1) + "\n"
        patch = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "data": {"plan.json": text}}
        with suppress(Conflict):
            scene.api.merge(CONFIG_MAPS, f"{name}-plan", patch, manager="story", namespace=scene.namespace)
        return False

    wait_for(what, is_done, seconds=60, shown=scene.conditions)


def _read(scene: Scene, name: str) -> Json:
    return scene.api.get(CONFIG_MAPS, f"{name}-plan", namespace=scene.namespace)


def _stocks(scene: Scene, name: str) -> Json:
    stocks: Json = json.loads(_read(scene, name)["data"]["plan.json"])["stock"]
    return stocks
