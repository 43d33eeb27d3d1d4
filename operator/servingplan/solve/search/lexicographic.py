"""The exact method: it optimises each level of the objective in turn until it is proved.

`search` finds copies, nodes and proofs for an instance; `answer` makes the answer from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from servingplan.model.answer import Stopped
from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal
from servingplan.solve.plan.judge import running_plan, weighed
from servingplan.solve.plan.plan import Found, Plan
from servingplan.solve.problem.constraints import AverageLoss, Cut, Loss, PlanProgram, build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Objective, Stage
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import DUST, EQUAL, HELD, TOLD, gap_of, reaches

START_NODES = 100
"""Work limit for the completion of a known plan; it is small, because only packing and tables are open."""
TIE_BREAK_NODES = 1
TIE_BREAK_GAP = 5e-3
"""Limits of the tie-break. It needs no proof; its result must only be the same every time."""


def search(
    instance: Instance,
    effort: Effort,
    *,
    losses: Sequence[Loss] = (),
    average_losses: Sequence[AverageLoss] = (),
    exact_contents: bool = False,
    must_serve: Sequence[int] = (),
    start: Plan | None = None,
    cuts: Sequence[Cut] = (),
    settled: Mapping[Goal, float] | None = None,
    scale_only: bool = False,
) -> Found:
    """The plan and the bounds that are found by optimising all levels in turn. The plan is not worse than `start`.

    `scale_only` leaves out the levels after the scale under MaximizeService, for copies that only start another search.

    `settled` are known bounds: on the scale, if `start` reaches it within the tolerance, so that it needs no search; and on
    the dollars in full service. `cuts` hold at the scale of `start`.

    The classes `must_serve` must be served in full, or there is no plan. If the running plan is within the gap of a level's
    bound, the level is not held above the running plan's value, so that no move is made for less than the gap.
    """
    if effort.stop() or (start is not None and not effort.affords(instance)):
        return Found(stopped="deadline")
    targets = instance.reachable_targets
    asked = [cls.requests_per_second for cls in instance.classes]
    if any(not reaches(targets[k], asked[k]) for k in must_serve if instance.question.objective == "MinimizeCost"):
        return Found(infeasible=True)

    def program() -> PlanProgram:
        plan = build(
            instance, targets, exact_contents=exact_contents, losses=losses, average_losses=average_losses, cuts=cuts
        )
        if instance.question.objective == "MinimizeCost":
            for k in must_serve:
                plan.program.set_bounds(plan.served[k], lower=1.0, upper=1.0)
        return plan

    if instance.question.objective == "MaximizeService":
        if not all(targets):
            return Found(infeasible=True)
        plan = build(instance, targets)
        relaxed = plan.program.optimise([(plan.served[0], 1.0)], "max", effort.limits(), relaxed=True)
        if relaxed.value is not None and relaxed.stopped == "proved":
            if relaxed.value <= DUST:
                return Found(infeasible=True)
            targets = tuple(target * relaxed.value for target in targets)
        if not effort.affords(instance):
            return Found(stopped="deadline")
        return _Search(program(), effort, start).run(settled=settled, scale_only=scale_only)
    if instance.all_reachable:
        hopeful = start is not None and not start.in_full  # reserve time for a plan with partial service
        share = effort.share(0.5) if hopeful else effort
        in_full = _Search(program(), share, start).run(in_full=True, settled=settled)
        if in_full.plan or (not in_full.infeasible and start is None):
            return in_full
        if not effort.affords(instance):
            return Found(stopped="deadline")
    return _Search(program(), effort, start).run()


class _Search:
    """One pass over the stages of one program."""

    def __init__(
        self,
        plan: PlanProgram,
        effort: Effort,
        start: Plan | None,
    ) -> None:
        self._plan = plan
        self._effort = effort
        self._found = Found()
        self._start = start
        self._values: tuple[float, ...] = ()
        running = running_plan(plan.instance, plan.targets)
        self._running = running.values if running else None
        self._service_gap = effort.relative_gap
        if plan.instance.question.objective == "MinimizeCost":
            self._service_gap = min(effort.relative_gap, TOLD)

    def run(
        self, *, in_full: bool = False, settled: Mapping[Goal, float] | None = None, scale_only: bool = False
    ) -> Found:
        """What all stages find. `in_full` demands full service of every class instead of optimising service."""
        stages = Objective(self._plan).service()
        if in_full:
            self._serve_in_full(stages)
            self._begin(stages, least=1.0)
        else:
            self._begin(stages, least=0.0)
            reached: dict[Goal, float] = {}
            for stage in stages:
                if stage.redundant(reached):
                    reached[stage.goal] = stage.best
                    self._record(stage, stage.best, stage.best)
                    continue
                if settled and stage.goal in settled and self._values:
                    reached[stage.goal] = self._keep(stage, settled[stage.goal])
                    continue
                value = self._optimise(stage, gap=self._service_gap, part=0.7)
                if value is None:
                    return self._found
                if stage.goal == SCALE and self._found.bounds[SCALE].value <= EQUAL * stage.unit:
                    self._found.infeasible = True
                    return self._found
                reached[stage.goal] = value
        if scale_only:
            self._read()
            return self._found
        last = self._plan.instance.question.running is None
        known = settled.get(DOLLARS) if settled else None
        part = 0.95 if last else 0.8
        if self._optimise(self._dollars(), gap=self._effort.relative_gap, part=part, known=known) is None:
            return self._found
        if self._plan.instance.question.running:
            stage = Objective(self._plan).moves()
            self._values = self._plan.with_moved(self._values)
            self._optimise(stage, gap=self._effort.relative_gap, part=0.8)
        self._break_ties()
        self._read()
        return self._found

    def _begin(self, stages: Sequence[Stage], *, least: float) -> None:
        """Use the known plan as the warm start: its copies, nodes and rates are fixed, the solver finds the other columns."""
        plan, start = self._plan, self._start
        if start is None:
            return
        parts = {
            pair: start.rates.get(pair, 0.0) / plan.targets[pair[1]] for pair in plan.shares if plan.targets[pair[1]]
        }
        served = [sum(part for (_, j), part in parts.items() if j == k) for k in range(len(plan.targets))]
        if not all(reaches(part, least) for part in served):
            return
        fixed = {column: float(count) for column, count in zip(plan.copies, start.copies, strict=True)}
        fixed |= {column: float(count) for column, count in zip(plan.nodes, start.nodes, strict=True)}
        fixed |= {plan.shares[pair]: part / plan.part(*pair) for pair, part in parts.items()}
        terms = [term for stage in stages for term in stage.terms]
        self._values = plan.program.completed(fixed, terms, self._effort.limits(nodes=START_NODES, part=0.5))

    def _serve_in_full(self, stages: Sequence[Stage]) -> None:
        for column in dict.fromkeys(self._plan.served):
            self._plan.program.set_bounds(column, lower=1.0, upper=1.0)
        for stage in stages:
            self._record(stage, stage.best, stage.best)
            if self._running is not None and self._running[stage.goal] < stage.best * (1 - TOLD):
                self._running = None

    def _dollars(self) -> Stage:
        """The dollars stage in units of the present plan's dollars or of the relaxation's, so that its value is of order 1."""
        stage = Objective(self._plan).dollars(unit=1.0)
        if self._values:
            unit = stage.value(self._values)
        else:
            relaxed = self._plan.program.optimise(stage.terms, "min", self._effort.limits(), relaxed=True)
            unit = relaxed.value or 0.0
        return Objective(self._plan).dollars(unit=unit if unit > 0 else 1.0)

    def _optimise(self, stage: Stage, *, gap: float, part: float, known: float | None = None) -> float | None:
        """Optimise, record and hold one stage. Returns its value in the reported unit; None if there is no plan.

        `known` is a bound on a stage that is minimised, in the reported unit; a value within the gap of it ends the search.
        """
        program = self._plan.program
        if self._values:
            self._values += (0.0,) * (
                program.columns_count() - len(self._values)
            )  # rows without terms add a column at 0
            program.start_from(self._values)
        limits = self._effort.limits(gap=gap, part=part)
        if known is not None:
            limits = replace(limits, target=known / stage.unit / (1 - gap))
        outcome = program.optimise(stage.terms, stage.sense, limits)
        if outcome.value is None and not self._values:
            self._found.infeasible = outcome.infeasible
            self._found.stopped = outcome.stopped
            return None
        if outcome.values and not (self._values and _worse(stage, outcome.values, self._values)):
            self._values = outcome.values
        value = stage.value(self._values)
        bound, stopped = _bound(outcome.bound, stage, value), outcome.stopped
        if known is not None:
            bound = min(max(bound, known / stage.unit), value)
            if gap_of(value, bound) <= gap:
                stopped = "proved"
        self._record(stage, value * stage.unit, bound * stage.unit, stopped)
        stage.hold(self._plan.program, self._worth_keeping(stage, value, bound), slack=HELD)
        return value * stage.unit

    def _keep(self, stage: Stage, bound: float) -> float:
        """Record and hold one stage at the known point, whose bound is known too. Returns its value in the reported unit."""
        value = stage.value(self._values)
        self._record(stage, value * stage.unit, max(bound, value * stage.unit))
        stage.hold(self._plan.program, self._worth_keeping(stage, value, bound / stage.unit), slack=HELD)
        return value * stage.unit

    def _worth_keeping(self, stage: Stage, value: float, bound: float) -> float:
        """The value to hold, scaled: the running plan's value if it is within the gap of the bound and lower, else `value`."""
        if self._running is None or stage.goal == MOVES:
            return value
        running = self._running[stage.goal] / stage.unit
        gap = TOLD if stage.goal.is_promise else self._effort.relative_gap
        if gap_of(running, bound) > max(gap, HELD) + DUST:
            self._running = None
            return value
        return stage.goal.tighter(value, running)  # the less demanding of both

    def _record(self, stage: Stage, value: float, bound: float, stopped: Stopped = "proved") -> None:
        if stopped != "proved" and self._found.stopped != "deadline":
            self._found.stopped = stopped
        self._found.record(stage.goal, bound, value=value, unit=stage.unit, proved=stopped == "proved")

    def _break_ties(self) -> None:
        """Choose among plans with equal levels, with the plan's shapes and on no more nodes, so that the program is small."""
        plan = self._plan
        for column in plan.copies:
            if round(self._values[column]) == 0:
                plan.program.set_bounds(column, lower=0.0, upper=0.0)
        for column, pool in zip(plan.nodes, plan.instance.pools, strict=True):
            plan.program.set_bounds(column, lower=pool.min_nodes, upper=round(self._values[column]))
        limits = self._effort.limits(nodes=TIE_BREAK_NODES, gap=TIE_BREAK_GAP)
        outcome = plan.program.optimise(Objective(plan).tie_break(), "min", limits)
        if outcome.values:
            self._values = outcome.values

    def _read(self) -> None:
        """Set the found plan to that of the present point."""
        packing, nodes = self._plan.read(self._values)
        self._found.plan = weighed(packing, nodes, self._plan.targets)


def _worse(stage: Stage, ours: Sequence[float], theirs: Sequence[float]) -> bool:
    left, right = stage.value(ours), stage.value(theirs)
    return abs(left - right) > HELD and stage.goal.is_better(right, left)


def _bound(bound: float | None, stage: Stage, value: float) -> float:
    """The proved bound, scaled, no worse than the value; the trivial bound (1 or 0) if none was proved."""
    if bound is None:
        bound = 1.0 if stage.goal.rises else 0.0
    return max(0.0, stage.goal.no_worse(bound, value))
