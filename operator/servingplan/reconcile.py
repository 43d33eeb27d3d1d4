"""THE TURN. observe -> publish weights -> decide -> apply the next safe step -> status, always.

The only module where the pure packages meet the cluster. Everything that blocks runs in a thread; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from servingplan.answering import Answers, Beside
from servingplan.api.reasons import with_page
from servingplan.api.status_v1alpha1 import Condition
from servingplan.api.v1alpha1 import API_VERSION, KIND
from servingplan.apply.order import carry_out
from servingplan.apply.writer import Writer
from servingplan.decide.decide import decide, publish
from servingplan.decide.retirement import Retirement, retire
from servingplan.decide.turn import Search
from servingplan.errors import ApiError, NotFound
from servingplan.explaining import Explainer
from servingplan.kube import EVENTS, PLANS, Api
from servingplan.metrics.exporter import PlanMetrics
from servingplan.metrics.samples import samples, trigger
from servingplan.model import names
from servingplan.model.actions import AnyAction
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome
from servingplan.model.world import Observation, PlanObject
from servingplan.observe.cluster import read_clock
from servingplan.observe.parse import plan_of
from servingplan.planning.situation import Situation
from servingplan.status.conclude import conclude
from servingplan.status.events import Event, events, retirement_events
from servingplan.status.exceptional import retiring, turn_failed

log = logging.getLogger("servingplan")

WHILE_EXPLAINING_SECONDS = 2.0
"""The time between turns while an explanation is computed, so that the status shows it soon."""
WAIT_FOR_OTHERS_SECONDS = 3.0
"""How long a turn waits until the plans that share its budget have told what they spend. Then it ends without a decision, and
the next one publishes the weights of what is ready by then."""


@dataclass(frozen=True)
class TurnReport:
    """The result of a turn, for the caller's next wait and for measurements."""

    gone: bool = False
    """Whether the plan no longer exists."""
    writes: int = 0
    seconds: float = 0.0
    wake_in_seconds: float | None = None
    """The seconds until something that was begun is due; None if nothing is."""
    again: bool = False
    """Whether our own writes changed the cluster, so that the next turn comes at once."""
    decision: Decision | None = None
    situation: Situation | None = None
    """What it knew."""


class SharedBudget:
    """Lets one plan at a time decide, of those that share a namespace's budget. It is for one event loop.

    The one that came first decides first, also where it gave up waiting meanwhile and came again. Else others, whose turns are
    short, could keep it from ever deciding.
    """

    def __init__(self) -> None:
        self._holder: object = None
        self._arrivals = itertools.count()
        self._came: dict[object, int] = {}
        """The number at which each plan came that has not decided since; they decide in this order."""
        self._waiting: dict[object, asyncio.Future[None]] = {}

    async def take(self, plan: object, seconds: float) -> bool:
        """Wait at most ``seconds`` until it is this plan's turn to decide; whether it is. ``plan`` is anything that stands for
        it."""
        self._came.setdefault(plan, next(self._arrivals))
        if self._holder is None:
            self._grant(plan)
            return True
        wait = self._waiting[plan] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await wait
        except TimeoutError:
            pass  # it may have been granted at the same moment
        except asyncio.CancelledError:
            if self._holder == plan:
                self.give_back()
            raise
        finally:
            self._waiting.pop(plan, None)
        return self._holder == plan

    def give_back(self) -> None:
        """The plan that decided has told what it will spend."""
        self._holder = None
        waiting = [plan for plan, wait in self._waiting.items() if not wait.done()]
        if waiting:
            first = min(waiting, key=self._came.__getitem__)
            self._grant(first)
            self._waiting[first].set_result(None)

    def forget(self, plan: object) -> None:
        """The plan comes no more."""
        self._came.pop(plan, None)

    def _grant(self, plan: object) -> None:
        self._holder = plan
        self._came.pop(plan, None)


class Elsewhere(Protocol):
    """Runs what blocks beside the event loop: a thread, or at once where nobody else waits."""

    def __call__[**P, T](self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """What the call returns, or raises."""
        ...


class Observes(Protocol):
    """Looks at the cluster: ``observe.cluster.Reader``."""

    def observe(self, namespace: str, name: str) -> Observation | None:
        """The observation of a plan; None if the plan is gone. Raises ``ApiError`` if the plan itself cannot be read."""
        ...


class Turns:
    """Takes the turns of one plan. Two of its turns must never run at the same time."""

    def __init__(
        self,
        *,
        api: Api,
        reader: Observes,
        solve: Search,
        namespace: str,
        name: str,
        metrics: PlanMetrics | None = None,
        explainer: Explainer | None = None,
        elsewhere: Elsewhere = asyncio.to_thread,
        beside: Beside | None = None,
        shared_budget: SharedBudget | None = None,
        wait_for_others_seconds: float = WAIT_FOR_OTHERS_SECONDS,
        clock: Callable[[], str] = read_clock,
        site: str = "",
    ) -> None:
        """``site`` is the address of the documentation, which messages then name. ``beside`` runs the searches that a turn
        does not wait for; without it turns wait for every search. ``shared_budget`` is held by one plan at a time of those
        that share a namespace's budget."""
        self._api = api
        self._reader = reader
        self._writer = Writer(api)
        self.metrics = metrics or PlanMetrics()
        self._answers = Answers(self.metrics.timed(solve), beside)
        self._explainer = explainer or Explainer()
        self._elsewhere = elsewhere
        self._shared_budget = shared_budget
        self._wait_for_others_seconds = wait_for_others_seconds
        self._clock = clock
        self._site = site
        self._namespace = namespace
        self._name = name

    def stop(self) -> None:
        """End what is computed beside the turns. No turn follows."""
        self._answers.stop()
        self._explainer.stop()
        if self._shared_budget is not None:
            self._shared_budget.forget(self)

    async def take(self) -> TurnReport:
        """Take one turn. The status already has the error that it raises, if the status can be written."""
        with self.metrics.turn():
            try:
                report = await self._take()
            except Exception as error:
                await self._elsewhere(self._tell_failure, error)
                raise
        if report.situation is None or report.decision is None or report.decision.searching or report.writes:
            return report
        if not self._explainer.begin(report.situation, report.decision):
            return report
        wake = min(WHILE_EXPLAINING_SECONDS, report.wake_in_seconds or WHILE_EXPLAINING_SECONDS)
        return replace(report, wake_in_seconds=wake)

    async def _take(self) -> TurnReport:
        started = time.monotonic()
        situation = await self._elsewhere(self._look)
        if situation is None:
            return TurnReport(gone=True)
        early = publish(situation)
        if early:
            # Weights first: they need no solver, and a replica that is gone must not wait for one.
            outcome = await self._elsewhere(self._write, early, situation)
            if outcome.done:
                again = await self._elsewhere(self._look)
                if again is None:
                    return TurnReport(gone=True, writes=len(outcome.done))
                situation = again
        if self._shared_budget is None:
            return await self._step(situation, len(early), started)
        # None of the others decides from the look at what they spend until the status tells what this plan will spend: else
        # two could take the same dollar.
        if not await self._shared_budget.take(self, self._wait_for_others_seconds):
            # A plan that is slow, or hangs, keeps the others from spending, not their weights from being published.
            log.info("%s/%s waits for another plan of its budget", self._namespace, self._name)
            seconds = time.monotonic() - started
            return TurnReport(writes=len(early), seconds=seconds, again=True, situation=situation)
        try:
            now = await self._elsewhere(self._look)
            return TurnReport(gone=True) if now is None else await self._step(now, len(early), started)
        finally:
            self._shared_budget.give_back()

    async def _step(self, situation: Situation, written: int, started: float) -> TurnReport:
        """The part of a turn that may spend: decide, write, tell. ``written``: the number of writes that the turn has made
        before. ``started``: when the turn began, in monotonic seconds."""
        plan = situation.world.plan
        decision = await self._elsewhere(self._decide, situation)
        if bool(decision.actions) and await self._elsewhere(self._is_outdated, plan):
            log.info("%s was edited during its planning: nothing of that plan is written", plan.key)
            return TurnReport(writes=written, again=True)
        outcome = await self._elsewhere(self._carry_out, decision, situation)
        writes = len(outcome.done) + written
        writes += await self._elsewhere(self._report, situation, decision, outcome)
        return TurnReport(
            writes=writes,
            seconds=time.monotonic() - started,
            wake_in_seconds=decision.wake_in_seconds,
            again=bool(outcome.done),
            decision=decision,
            situation=situation,
        )

    async def retire(self, uid: str) -> TurnReport:
        """Take one step of a deleted plan's retirement. The report is ``gone`` when nothing is left to do."""
        with self.metrics.turn():
            try:
                return await self._retire(uid)
            except Exception as error:
                await self._elsewhere(self._tell_failure, error, uid)
                raise

    async def _retire(self, uid: str) -> TurnReport:
        situation = await self._elsewhere(self._look)
        # A finalizer that somebody took away lets a new plan have the name while this one is still retired.
        if situation is None or situation.world.plan.uid != uid:
            return TurnReport(gone=True)
        world, spec = situation.world, situation.acting
        step = retire(situation)
        decision = step.decision
        outcome = await self._elsewhere(self._carry_out, decision, situation)
        self._tell(situation, decision, outcome)
        await self._elsewhere(self._report_retirement, world, step, outcome)
        # A pool that could not be released would stay claimed by a plan that is gone: try again while there is time.
        if step.done and (not outcome.refused or step.late):
            if spec is not None and spec.deletion_policy == "Retain":
                await self._elsewhere(self._writer.disown, world)
            return TurnReport(gone=True, writes=len(outcome.done), decision=decision)
        return TurnReport(
            writes=len(outcome.done),
            wake_in_seconds=decision.wake_in_seconds,
            again=bool(outcome.done),
            decision=decision,
            situation=situation,
        )

    def _look(self) -> Situation | None:
        """What is known of the plan now; None where it is gone."""
        world = self._reader.observe(self._namespace, self._name)
        return None if world is None else Situation(world)

    def _decide(self, situation: Situation) -> Decision:
        decision = None
        try:
            self._answers.generation = situation.world.plan.generation
            decision = decide(situation, self._answers)
            return decision
        finally:
            self.metrics.solved(trigger(situation, decision))

    def _is_outdated(self, plan: PlanObject) -> bool:
        """Whether the plan changed meanwhile: what was read of it may be late, and no node may be rented by an old budget."""
        try:
            found = self._api.get(PLANS, plan.name, namespace=plan.namespace)["metadata"]
        except NotFound:
            return True
        now = (found["uid"], found["generation"], found.get("deletionTimestamp"))
        return now != (plan.uid, plan.generation, plan.deleting_since)

    def _write(self, actions: tuple[AnyAction, ...], situation: Situation) -> Outcome:
        if not actions:
            return Outcome()
        world = situation.world
        outcome = self._writer.write(actions, world=world, spec=situation.acting)
        self.metrics.wrote(outcome)
        for action in outcome.done:
            log.info("%s %s", world.plan.key, action)
        for item in outcome.refused:
            log.warning("%s refused: %s: %s: %s", world.plan.key, item.action, item.reason, item.message)
        return outcome

    def _carry_out(self, decision: Decision, situation: Situation) -> Outcome:
        return carry_out(decision, lambda actions: self._write(actions, situation))

    def _tell(
        self, situation: Situation, decision: Decision, outcome: Outcome, conditions: tuple[Condition, ...] = ()
    ) -> None:
        """Update the metrics. A failure does not stop the turn, and leaves no old values."""
        try:
            known = samples(situation, decision, outcome, conditions)
        except Exception:
            log.exception("%s: its metrics cannot be updated", situation.world.plan.key)
            known = {}
        self.metrics.tell(known, inventory_was_read=not situation.world.failures)

    def _report(self, situation: Situation, decision: Decision, outcome: Outcome) -> int:
        world = situation.world
        status = conclude(situation, decision, outcome, self._explainer.of(decision))
        self._tell(situation, decision, outcome, status.conditions)
        posted = events(world, decision, outcome, status)
        writes = self._write_status(world.plan, status.model_dump(mode="json", by_alias=True, exclude_none=True))
        for event in posted:
            writes += self._post(event, world)
        return writes

    def _report_retirement(self, world: Observation, step: Retirement, outcome: Outcome) -> None:
        """Write the status and Events of a step. The status holds the clock, so a step that cannot write it is repeated."""
        self._write_status(world.plan, retiring(world.plan, step, world.now))
        for event in retirement_events(world, step, outcome):
            self._post(event, world)

    def _tell_failure(self, error: Exception, uid: str | None = None) -> None:
        """Write into the plan's status that the turn failed; with ``uid`` only if that plan still has the name. If that fails
        too, only log it."""
        try:
            plan = plan_of(self._api.get(PLANS, self._name, namespace=self._namespace))
            if uid in (None, plan.uid):
                self._write_status(plan, turn_failed(plan, error, self._clock()))
        except Exception as other:
            log.warning("%s/%s: the status cannot say that the turn failed: %s", self._namespace, self._name, other)

    def _write_status(self, plan: PlanObject, wanted: dict[str, Any]) -> int:
        """Write the whole status if it differs; the number of writes."""
        if "conditions" in wanted:
            wanted = {**wanted, "conditions": [dict(with_page(item, self._site)) for item in wanted["conditions"]]}
        if wanted == plan.status:
            return 0
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": plan.name, "namespace": plan.namespace, "uid": plan.uid},
            "status": wanted,
        }
        self._api.apply(PLANS, manifest, manager=names.STATUS_MANAGER, force=True, subresource="status")
        return 1

    def _post(self, event: Event, world: Observation) -> int:
        """Post an Event; the number of writes. An Event is not state, so one that cannot be posted is only logged."""
        plan = world.plan
        about = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": plan.name,
            "namespace": plan.namespace,
            "uid": plan.uid,
        }
        if event.about == "namespace":
            # With its own namespace, though it has none: the API server wants the Event's and its object's to be equal.
            about = {"apiVersion": "v1", "kind": "Namespace", "name": plan.namespace, "namespace": plan.namespace}
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{plan.name}.", "namespace": plan.namespace},
            "involvedObject": about,
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": "servingplan"},
            "reportingComponent": "servingplan",
            "reportingInstance": "servingplan",
            "firstTimestamp": world.now,
            "lastTimestamp": world.now,
            "count": 1,
        }
        try:
            self._api.create(EVENTS, manifest, namespace=plan.namespace)
        except ApiError as error:
            log.warning("%s event %s not posted: %s", plan.key, event.reason, error)
            return 0
        self.metrics.posted(event.type, event.reason)
        return 1
