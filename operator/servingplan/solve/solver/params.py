"""All parameters of the method `anytime`: the limits of each step, and the sizes from which a step is worthwhile.

They change how soon a plan is good, never whether its promises or its bounds hold. Work limits are branch-and-bound nodes, so
that a plan does not depend on the machine; shares are parts of the remaining time. The values come from the benchmarks of
`docs/planner-measured.md`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AnytimeParams:
    """The parameters, by step."""

    # First plan.
    cover_steps: int = 6
    """Bisection steps of a greedy cover; few, because the plan is only the start."""

    # Which steps are taken.
    searched_pairs: int = 20_000
    """The most pairs of shape and class for which the program over all shapes is searched; with more, a node takes seconds."""
    joint_pairs: int = 200
    """Up to this number of pairs of shape and class, one program over all models is quick enough by itself."""
    apart_models: int = 3
    apart_gap: float = 5e-3
    """The decomposition by model is used from `apart_models` models on, and with two models if the asked gap is at least
    `apart_gap`: its bound is seldom closer than half a per cent."""
    cheapest_shapes: int = 8
    """Shapes per class of the kernel of a question that is too large to be searched whole."""
    ruin_pairs: int = 500
    """A question of at least so many pairs of shape and class has its first plan ruined and recreated before the relaxation."""
    ruin_rounds: int = 3
    """The most times that the copies of every node and of every model are removed and served anew."""

    # Each model by itself at prices.
    turn_idle: float = 0.75
    """At the first scale at which the models are served in turn, about this part of one copy of each model is idle."""
    turn_step: float = 0.985
    """The next scale, if stock or budget do not suffice, is at most this part of the last one."""
    turns: int = 4
    """The most scales that are tried in this way, in one order of the models and the other by turns."""
    turn_nodes: int = 60
    turn_gap: float = 0.02
    """Work limit and gap of each model's program there. They are coarse, because a first plan matters more than its last
    per cent."""
    trials: int = 8
    """The most scales that are tried by price."""
    trials_beyond: int = 2
    """The most further trials after prices failed to exclude a scale that must be out of reach; they improve the bound if no
    proof follows."""
    near: float = 1.03
    """If the price is within this factor of the supply, a search starts from the copies that the models chose."""
    proofs: int = 4
    """The most searches over all shapes for a plan just beyond the tolerance."""
    proof_nodes: int = 2_000
    """Work limit of each such search."""
    proof_gap: float = 0.5
    """The gap at which such a search may end; it is large, because any plan at the scale suffices."""
    few_branchings: int = 2
    """Trial branchings of searches over nearly equal shapes. With 8, HiGHS's default, they take 1.1 times as long for two
    models and 1.5 times for three."""
    apart_share: float = 0.5
    """Share of the time for the decomposition by model under MinimizeCost; the rest is for the steps after it."""

    # Kernel search.
    kernel_shapes: int = 40
    """Shapes of the kernel; more if the relaxation uses more."""
    kernel_nodes: int = 200
    """Work limit of each level."""
    kernel_share: float = 0.35
    """Share of the kernel search."""

    # The program over all shapes.
    whole_nodes: int = 1_000
    """Work limit of each level."""
    small_share: float = 0.6
    """Share of a search over the cheapest shapes, for a question that is too large to be searched whole."""

    # Plans with a reserve against the loss of any node.
    many_contents: int = 400
    """With more contents of a node, over all pools, the program that guards against each of them is not searched."""
    kernel_contents: int = 60
    """The same limit for the few shapes of a kernel; it is lower, because each content adds a routing to every relaxation."""
    spare: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0)
    """The multiples of the rates of protected classes that constructed plans carry."""
    reserves: tuple[float, ...] = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.4)
    """The parts of the protected rates that must remain after the mean loss, tried until a plan survives every single loss."""
    mean_nodes: int = 1_500
    """Work limit of each level of the program with mean losses."""
    guarded_nodes: int = 100
    """Work limit of each level of the guarded search over few shapes."""
    construction_share: float = 0.2
    mean_share: float = 0.5
    guarded_share: float = 0.7
    """Shares of constructed plans, of each program with mean losses, and of the guarded search."""


ANYTIME = AnytimeParams()
