"""The best plan by enumeration: every vector of copies, every packing, routing by a linear program built apart."""

import functools
import itertools
import math

import highspy
import numpy as np

SAME = 1e-7
"""Relative difference of two values that are the same but for rounding."""


def best_values(question):
    """Level values of the best plan, larger is better (dollars and moves negative); None where no plan is allowed.

    No plan: floors cost too much, no multiple of the mix can be served, or protected classes do not survive a loss.
    """
    best = None
    for copies in itertools.product(*(range(most_copies(question, shape) + 1) for shape in question.shapes)):
        values = values_of(question, copies, beat=best)
        if values is not None and (best is None or better(values, best)):
            best = values
    if best is not None and question.objective == "MaximizeService" and best[0] <= 1e-9:
        return None
    return best


def values_of(question, copies, *, beat=None):
    """Level values of the best plan with these copies; None where none is allowed or all are surely worse than `beat`."""
    if any(gpus_on(question, quota.pools, copies) > quota.max_gpus for quota in question.quotas):
        return None
    packings = [packings_of(question, pool, copies) for pool in question.pools]
    if not all(packings):
        return None
    fewest = [min(nodes for nodes, _ in ways) for ways in packings]
    if dollars_of(question, fewest) > question.budget_dollars_per_hour + 1e-9:
        return None
    routed = service(question, copies)
    if beat is not None and routed and routed[0] < beat[0] - SAME * max(1.0, abs(beat[0])):
        return None
    moves = () if question.running is None else (-moves_of(question, copies),)
    if not question.survive:
        return (*routed, -dollars_of(question, fewest), *moves)
    guarded = surviving_service(question, copies, routed, spot_loss(question, copies))
    if guarded is None:
        return None
    best = None
    for ways in itertools.product(*packings):
        dollars = dollars_of(question, [nodes for nodes, _ in ways])
        if dollars <= question.budget_dollars_per_hour + 1e-9:
            left = node_losses(question, copies, [contents for _, contents in ways])
            values = surviving_service(question, copies, guarded, left)
            if values is not None and (best is None or better((*values, -dollars), best)):
                best = (*values, -dollars)
    return None if best is None else (*best, *moves)


def better(left, right):
    """Whether the first level that differs is better on the left."""
    for a, b in zip(left, right, strict=True):
        if abs(a - b) > SAME * max(1.0, abs(a)):
            return a > b
    return False


def most_copies(question, shape):
    """Copies that fit if nothing else ran."""
    pools = {pool.name: pool for pool in question.pools}
    fits = [pools[name].max_nodes * pools[name].gpus_per_node // gpus for name, gpus in shape.gpus.items()]
    return min([*fits, *([shape.max_copies] if shape.max_copies is not None else [])])


def dollars_of(question, nodes):
    """What these nodes cost in an hour."""
    return sum(pool.dollars_per_node_hour * count for pool, count in zip(question.pools, nodes, strict=True))


def gpus_on(question, pools, copies):
    """GPUs that copies hold on some pools."""
    held = [sum(gpus for pool, gpus in shape.gpus.items() if pool in pools) for shape in question.shapes]
    return sum(count * gpus for count, gpus in zip(copies, held, strict=True))


def moves_of(question, copies):
    """Replicas added or removed."""
    running = question.running.replicas
    return sum(abs(count - running.get(shape.name, 0)) for shape, count in zip(question.shapes, copies, strict=True))


def packings_of(question, pool, copies):
    """Every way to put these copies on nodes of a pool: (nodes, distinct contents), a content being shape indices.

    Without losses to survive only the fewest nodes matter, and one way is enough.
    """
    pieces, whole, contents = [], 0, set()
    for c, (shape, count) in enumerate(zip(question.shapes, copies, strict=True)):
        gpus = shape.gpus.get(pool.name, 0)
        if gpus > pool.gpus_per_node:
            whole += count * (gpus // pool.gpus_per_node)
            contents |= {(c,)} if count else set()
        elif gpus:
            pieces += [(gpus, c)] * count
    room = pool.max_nodes - whole
    if room < 0 or sum(gpus for gpus, _ in pieces) > room * pool.gpus_per_node:
        return []
    pieces.sort(reverse=True)
    ways = _every_packing if question.survive else _fewest_nodes
    return [
        (max(pool.min_nodes, whole + used), frozenset(contents | held))
        for used, held in ways(tuple(pieces), room, pool.gpus_per_node)
    ]


@functools.lru_cache(maxsize=10_000)
def _fewest_nodes(pieces, most, size):
    """The fewest nodes that hold the pieces, by trying every node for every piece."""

    @functools.cache
    def fits(index, room):
        if index == len(pieces):
            return True
        return any(
            fits(index + 1, tuple(sorted((*room[:n], free - pieces[index][0], *room[n + 1 :]))))
            for n, free in enumerate(room)
            if free >= pieces[index][0] and free not in room[:n]
        )

    return [(count, set()) for count in range(most + 1) if fits(0, (size,) * count)][:1]


@functools.lru_cache(maxsize=10_000)
def _every_packing(pieces, most, size):
    """Every way to hold the pieces: nodes used and their distinct contents."""
    states = {()}
    for gpus, c in pieces:
        grown = set()
        for state in states:
            if len(state) < most:
                grown.add(tuple(sorted((*state, (size - gpus, (c,))))))
            for n, (free, held) in enumerate(state):
                if free >= gpus:
                    grown.add(tuple(sorted((*state[:n], (free - gpus, (*held, c)), *state[n + 1 :]))))
        states = grown
    return sorted({(len(state), frozenset(held for _, held in state)) for state in states}, key=repr)


def spot_loss(question, copies):
    """The loss of all Spot pools, where a rule asks for it: (protected classes, copies left)."""
    spot = {pool.name for pool in question.pools if pool.capacity_type == "Spot"}
    left = tuple(0 if spot & shape.gpus.keys() else count for shape, count in zip(question.shapes, copies, strict=True))
    return [(protected(question, rule), left) for rule in question.survive if rule.event == "SpotPools"]


def node_losses(question, copies, contents):
    """The loss of each kind of node, where a rule asks for it."""
    lost = {content for held in contents for content in held}
    return [
        (protected(question, rule), tuple(count - content.count(c) for c, count in enumerate(copies)))
        for rule in question.survive
        if rule.event == "AnyNode"
        for content in lost
    ]


def protected(question, rule):
    """Names of the classes that a rule guards."""
    return frozenset(cls.name for cls in question.classes if cls.priority >= rule.min_priority)


def surviving_service(question, copies, routed, losses):
    """Service levels where the protected classes are served in full, after each loss too; None where that fails.

    Under MaximizeService the scale is what every loss leaves; under MinimizeCost a loss leaves the levels as they are.
    """
    names = {name for rule in question.survive for name in protected(question, rule)}
    guarded = {cls.priority for cls in question.classes if cls.name in names and cls.requests_per_second > 0}
    if question.objective == "MaximizeService":
        scales = [kept_scale(question, left, names) for names, left in losses]
        return (min([routed[0], *scales]),)
    priorities = sorted({cls.priority for cls in question.classes if cls.requests_per_second > 0}, reverse=True)
    for n, priority in enumerate(priorities):
        if priority in guarded and routed[2 * n] < 1.0 - 1e-7:
            return None
    if any(kept_scale(question, left, names) < 1.0 - 1e-7 for names, left in losses):
        return None
    return routed


def kept_scale(question, copies, names):
    """The multiple of these classes' rates that the copies can serve, without regard to others."""
    classes = [cls for cls in question.classes if cls.name in names and cls.requests_per_second > 0]
    return _scale(question, copies, classes) if classes else math.inf


def service(question, copies):
    """Values of the service levels for these copies."""
    classes = [cls for cls in question.classes if cls.requests_per_second > 0]
    if question.objective == "MaximizeService":
        return (_scale(question, copies, classes),)
    lp = Routing(question, copies, classes)
    for k, cls in enumerate(classes):
        lp.row(-math.inf, cls.requests_per_second, lp.served(k))
    values = []
    for priority in sorted({cls.priority for cls in classes}, reverse=True):
        smallest = lp.column()
        members = [k for k, cls in enumerate(classes) if cls.priority == priority]
        for k in members:
            lp.row(0.0, math.inf, {smallest: -classes[k].requests_per_second, **lp.served(k)})
        total = {i: 1.0 for k in members for i in lp.served(k)}
        for terms in ({smallest: 1.0}, total):
            values.append(lp.maximise(terms) if terms else 0.0)
            if terms:
                lp.row(values[-1] - 1e-9, math.inf, terms)
    return tuple(values)


def _scale(question, copies, classes):
    lp = Routing(question, copies, classes)
    scale = lp.column()
    for k, cls in enumerate(classes):
        if not lp.served(k):
            return 0.0
        lp.row(0.0, 0.0, {**lp.served(k), scale: -cls.requests_per_second})
    return lp.maximise({scale: 1.0})


class Routing:
    """Rates per pair in requests/s, load and quality rows; straight to HiGHS, without the project's adapter."""

    def __init__(self, question, copies, classes):
        self._highs = highspy.Highs()
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        self._pairs = [
            (c, k)
            for c, shape in enumerate(question.shapes)
            for k, cls in enumerate(classes)
            if copies[c] and cls.name in shape.requests_per_second
        ]
        for _ in self._pairs:
            self._highs.addVar(0.0, highspy.kHighsInf)
        for c, shape in enumerate(question.shapes):
            limits = shape.max_utilization if isinstance(shape.max_utilization, tuple) else (shape.max_utilization,)
            room = copies[c] * limits[min(max(copies[c], 1), len(limits)) - 1]
            busy = {
                i: 1.0 / shape.requests_per_second[classes[k].name] for i, (d, k) in enumerate(self._pairs) if d == c
            }
            self.row(-math.inf, room, busy)
        for k, cls in enumerate(classes):
            if cls.quality_loss_limit is not None:
                limit = cls.quality_loss_limit
                loss = {i: question.shapes[self._pairs[i][0]].quality_loss.get(cls.name, 0.0) for i in self.served(k)}
                self.row(-math.inf, 0.0, {i: lost - limit for i, lost in loss.items()})

    def served(self, k):
        """The columns of what is served of class k."""
        return {i: 1.0 for i, (_, served) in enumerate(self._pairs) if served == k}

    def column(self):
        """One more column."""
        self._highs.addVar(0.0, 1e6)
        return self._highs.getNumCol() - 1

    def row(self, low, high, terms):
        """low <= sum of terms <= high."""
        index = np.array(list(terms), dtype=np.int32)
        self._highs.addRow(low, high, len(terms), index, np.array(list(terms.values()), dtype=np.float64))

    def maximise(self, terms):
        """The largest sum of terms."""
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        for column in range(self._highs.getNumCol()):
            self._highs.changeColCost(column, terms.get(column, 0.0))
        self._highs.run()
        assert self._highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return self._highs.getInfo().objective_function_value
