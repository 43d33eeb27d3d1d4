"""Every number that steers the method `anytime`: what each of its steps may take, and from which size on it pays.

They change how soon a plan is good, never whether its promises or its bounds hold. Work limits are branch-and-bound nodes, so
that a plan does not depend on the machine; shares are parts of the time that is left. Set by the benchmarks of
`docs/planner-measured.md`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AnytimeParams:
    """The numbers, by step."""

    # First plan.
    cover_steps: int = 6
    """Bisection steps of a greedy cover: the plan is only a beginning."""

    # Which steps are taken.
    searched_pairs: int = 20_000
    """Most pairs of shape and class for which the program over all shapes is searched: beyond, one node takes seconds."""
    joint_pairs: int = 200
    """Pairs of shape and class up to which one program over all models is quick enough by itself."""
    apart_models: int = 3
    apart_gap: float = 5e-3
    """Models, or with two models the tolerance, from which prices by model pay: they tell little below half a per cent."""
    cheapest_shapes: int = 8
    """Shapes per class of the kernel of a question that is too large to be searched whole."""

    # Each model by itself at prices.
    trials: int = 8
    """Most scales that are tried by price."""
    trials_beyond: int = 2
    """Of these, once price does not exclude what would have to be out of reach: for a better bound where no proof follows."""
    near: float = 1.03
    """Where price is within this factor of supply, the copies that the models chose are worth a search of their own."""
    proofs: int = 4
    """Most searches over all shapes for a plan just beyond the tolerance."""
    proof_nodes: int = 2_000
    """Work limit of each."""
    proof_gap: float = 0.5
    """Gap at which such a search may end: any plan at the scale will do."""
    few_branchings: int = 2
    """Trial branchings of searches over near-tied shapes: 8, HiGHS's choice, take 1.1 times as long for two models and 1.5 for
    three."""
    apart_share: float = 0.5
    """Share of serving the models apart under MinimizeCost: the rest is for what follows."""

    # Kernel search.
    kernel_shapes: int = 40
    """Shapes of the kernel, more where the relaxation uses more."""
    kernel_nodes: int = 200
    """Work limit of each level."""
    kernel_share: float = 0.35
    """Share of it."""

    # The program over all shapes.
    whole_nodes: int = 1_000
    """Work limit of each level."""
    small_share: float = 0.7
    """Share of a search over the cheapest shapes, of a question that is too large to be searched whole."""

    # Plans with a reserve against the loss of any node.
    many_contents: int = 400
    """Contents of a node, over all pools, from which the program that guards against each of them is not searched."""
    kernel_contents: int = 60
    """The same for the few shapes among which a plan is sought: each costs a routing in every relaxation."""
    spare: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0)
    """How much more than is asked of protected classes the constructed plans carry."""
    reserves: tuple[float, ...] = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.4)
    """How much of what is protected the mean loss must leave, tried until a plan stands every single loss."""
    mean_nodes: int = 1_500
    """Work limit of each level of the program with mean losses."""
    guarded_nodes: int = 100
    """Work limit of each level of the guarded search over few shapes."""
    construction_share: float = 0.2
    mean_share: float = 0.5
    guarded_share: float = 0.7
    """Shares of constructed plans, of each program with mean losses, and of the guarded search."""


ANYTIME = AnytimeParams()
