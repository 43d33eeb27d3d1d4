"""The linear relaxation: it gives the first bound and shows which copies are useful.

`certificate` bounds plans with it, and `rounding` makes whole copies from its optimum.
"""

from servingplan.model.goal import DOLLARS, SCALE, Goal
from servingplan.solve.problem.constraints import PlanProgram, build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Objective, Stage
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import HELD


class Relaxation:
    """The linear relaxation of a question with its levels of service."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.plan: PlanProgram = build(instance, instance.reachable_targets)
        self.stages = Objective(self.plan).service()
        self.values: tuple[float, ...] = ()
        """The last optimum, by column."""
        self.reduced_costs: tuple[float, ...] = ()
        """Reduced costs there, by column."""
        self.optimised: Stage | None = None
        """The stage of the last optimum."""
        self.bounds: dict[Goal, float] = {}
        """The bound that `optimise` proved: on the scale, or on the dollars for full service."""

    def bound(self, stage: Stage, effort: Effort) -> float:
        """The best value of the stage in the relaxation, in its own unit; `stage.best` if the time is up."""
        outcome = self.plan.program.optimise(stage.terms, stage.sense, effort.limits(part=0.8), relaxed=True)
        if outcome.stopped != "proved" or outcome.value is None:
            return stage.best
        self.values, self.reduced_costs, self.optimised = outcome.values, outcome.reduced_costs, stage
        return outcome.value * stage.unit

    @property
    def copies(self) -> list[float]:
        """Copies of each shape at the last optimum; all 0 if there was none."""
        return [self.values[column] if self.values else 0.0 for column in self.plan.copies]

    def optimise(self, effort: Effort) -> None:
        """Optimise the dollars if every class can be served in full, else the levels of service in their order."""
        program, question = self.plan.program, self._instance.question
        if question.objective == "MinimizeCost":
            dollars = Objective(self.plan).dollars(unit=question.budget_dollars_per_hour or 1.0)
            if self._instance.all_reachable:
                for column in self.plan.served:
                    program.set_bounds(column, lower=1.0, upper=1.0)
                least = self.bound(dollars, effort)
                if self.values:
                    self.bounds[DOLLARS] = least
                    return
                for column in self.plan.served:
                    program.set_bounds(column, lower=0.0, upper=1.0)
            for stage in self.stages:
                if stage.unit > 0:
                    stage.hold(program, self.bound(stage, effort) / stage.unit, slack=HELD)
            self.bound(dollars, effort)
        elif all(self.plan.targets):
            self.bounds[SCALE] = self.bound(self.stages[0], effort)
