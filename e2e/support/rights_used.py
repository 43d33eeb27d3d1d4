"""The rights that the operator uses, each with a story that is known to use it.

``rights_used.txt`` is that list. At its end a story asks the audit log what its operators did: nothing was refused, all of
it is in the list, and what the list says of this story was used. So the list is complete and true, however the stories are
spread over processes. ``tests/contract/test_rights.py`` compares it with what the chart grants.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.support.waiting import wait_for
from localcluster.audit import AuditLog, Request

_ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("rights_used.txt")
CLUSTER, PLANS, RELEASE = "cluster", "plans", "release"
"""Places of a right: everywhere, in a namespace with plans, in the release's own; else the namespace's name."""


class Right(NamedTuple):
    """A verb on a kind, and where."""

    where: str
    group: str
    resource: str
    verb: str


def read() -> dict[Right, str]:
    """The list: by right, the story that uses it."""
    found = {}
    for line in FILE.read_text().splitlines():
        where, verb, kind, story = line.split()
        resource, _, group = kind.partition(".")
        found[Right(where, group, resource, verb)] = story
    return found


def write(rights: dict[Right, str]) -> None:
    """Write the list, one right a line: where, verb, ``RESOURCE.GROUP``, story."""
    rows = [(right.where, right.verb, _kind(right), story) for right, story in sorted(rights.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (" ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows)
    FILE.write_text("".join(f"{line}\n" for line in lines))


def story_of(item: pytest.Function) -> str:
    """FILE::TEST, whatever the parameters are."""
    return f"{item.path.relative_to(_ROOT)}::{item.originalname}"


class Account:
    """What one ServiceAccount does during a story."""

    def __init__(self, log: AuditLog, user: str, *, home: str, story: str) -> None:
        """``home``: the namespace of its release. ``story``: FILE::TEST."""
        self._log, self._user, self._home, self._story = log, user, home, story
        log.requests()  # those of other stories
        self._seen: set[Request] = set()

    def _look(self) -> set[Request]:
        self._seen |= {request for request in self._log.requests() if request.user == self._user}
        return self._seen

    def used(self) -> set[Right]:
        """The rights that were used so far."""
        return {
            Right(self._where(item.namespace), item.group, item.resource, item.verb)
            for item in self._look()
            if item.allowed and item.group != "authorization.k8s.io"  # everybody may ask what he may do
        }

    def _where(self, namespace: str) -> str:
        if namespace in ("default", "kube-system"):
            return namespace
        return {"": CLUSTER, self._home: RELEASE}.get(namespace, PLANS)

    def refused(self) -> list[Request]:
        """Requests for which a right was missing."""
        return sorted(item for item in self._look() if not item.allowed)

    def check(self, *, may_be_refused: bool = False) -> None:
        """Raises ``AssertionError`` where the list is wrong. ``UPDATE_GOLDEN=1`` adds to it what no story was known to use."""
        assert may_be_refused or not self.refused(), f"the chart does not grant: {self.refused()}"
        known = read()
        if os.environ.get("UPDATE_GOLDEN"):
            write({**dict.fromkeys(self.used(), self._story), **known})
            return
        # Where it was used decides nothing here: the API server has granted it.
        listed = {right[1:] for right in known}
        new = [right for right in self.used() if right[1:] not in listed]
        assert not new, f"used, and not in {FILE.name} (UPDATE_GOLDEN=1 adds it): {text(new)}"
        expected = {right for right, story in known.items() if story == self._story}
        # The last requests may not be written down yet.
        wait_for(
            f"{self._story} uses what {FILE.name} says",
            lambda: expected <= self.used(),
            seconds=5,
            shown=lambda: f"{text(expected - self.used())} it did not: name another story, or take it out of the chart",
        )


def text(rights: Iterable[Right]) -> str:
    """Rights for a message."""
    return ", ".join(f"{item.verb} {_kind(item)} in {item.where}" for item in sorted(rights))


def _kind(right: Right) -> str:
    return f"{right.resource}.{right.group}".removesuffix(".")
