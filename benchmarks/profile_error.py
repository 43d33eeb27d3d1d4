"""How far profiles err on the packaged measurements: the tables of ``docs/profiles.md``.

    python benchmarks/profile_error.py

Every figure is |predicted / measured - 1|: its mean, and the value that nine in ten stay within (p90).
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from servingplan.profiles import catalogue, measured, roofline
from servingplan.profiles.measured import Node

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Errors:
    """Relative errors of one table row."""

    values: list[float]

    @property
    def mean(self):
        """Mean absolute relative error."""
        return sum(self.values) / len(self.values)

    @property
    def p90(self):
        """What nine in ten stay within."""
        return sorted(self.values)[max(0, math.ceil(0.9 * len(self.values)) - 1)]

    def __str__(self):
        return f"{len(self.values):5d} {self.mean:8.1%} {self.p90:8.1%}"


def lengths(node: Node):
    """The pair of lengths of a measurement."""
    return node.input_tokens, node.output_tokens


def saturated(nodes):
    """The saturated rates among measurements."""
    return tuple(node for node in nodes if node.ttft_stretch is None)


def by_concurrency(nodes):
    """The (TTFT, TPOT) points among measurements."""
    return tuple(node for node in nodes if node.ttft_stretch is not None)


def roofline_error(node: Node):
    """Error of the uncorrected rate: a stretch is measured over predicted time, so predicted over measured rate."""
    return abs(node.slot_stretch - 1)


def held_out_error(node: Node, others, of="rate"):
    """Error of the rate (or of TTFT) at one measurement, corrected by ``others`` only.

    The roofline divides out: corrected over measured time is interpolated over true stretch.
    """
    seen = measured.correction(tuple(others), input_tokens=node.input_tokens, output_tokens=node.output_tokens)
    unit = roofline.Point(node.batch, 1.0, 1.0, node.batch)
    corrected = seen.apply(unit)
    if of == "ttft":
        return abs(corrected.ttft_seconds / node.ttft_stretch - 1)
    return abs(corrected.requests_per_second / (node.batch / node.slot_stretch) - 1)


def leave_one_length_out(nodes, of="rate"):
    """Errors at every measurement, corrected by those of other pairs of lengths; at least three pairs needed."""
    if len({lengths(node) for node in nodes}) < 3:
        return []
    return [
        held_out_error(node, [other for other in nodes if lengths(other) != lengths(node)], of)
        for node in nodes
        if inside(node, nodes)
    ]


def inside(node: Node, nodes):
    """Whether the held-out lengths stay between the others': what ``estimate`` calls interpolated."""
    others = [other for other in nodes if lengths(other) != lengths(node)]
    return measured.correction(tuple(others), input_tokens=node.input_tokens, output_tokens=node.output_tokens).inside


def leave_one_concurrency_out(nodes, of="rate"):
    """Errors at every (TTFT, TPOT) point that has a neighbour on both sides, corrected by all the others."""
    errors = []
    for node in nodes:
        same = sorted(other.batch for other in nodes if lengths(other) == lengths(node))
        if len(same) >= 3 and same[0] < node.batch < same[-1]:
            errors.append(held_out_error(node, [other for other in nodes if other is not node], of))
    return errors


def other_replicas(key: Key, nodes_by_key):
    """Errors when only another tensor-parallel size of the same model, card and precision corrects: not done."""
    errors = []
    for other, nodes in nodes_by_key.items():
        if other[:3] == key[:3] and other[3] < key[3] and saturated(nodes):
            errors += [held_out_error(node, saturated(nodes)) for node in saturated(nodes_by_key[key])]
    return errors


def tables():
    """Every table, as {title: {row: Errors}}."""
    nodes_by_key = measured.SHIPPED.nodes
    found = defaultdict(lambda: defaultdict(list))
    for key, nodes in nodes_by_key.items():
        model, gpu, precision, size = key
        kind = "mixture of experts" if catalogue.find_model(model).active_parameters else "dense"
        alone = "Roofline alone, saturated rates"
        found[alone][f"{gpu} {precision}, {kind}"] += map(roofline_error, saturated(nodes))
        found[alone][f"TP {size}, {kind}"] += map(roofline_error, saturated(nodes))
        found["Roofline alone, latency by concurrency"][f"rate, {gpu} {precision}"] += map(
            roofline_error, by_concurrency(nodes)
        )
        found["Roofline alone, latency by concurrency"][f"TTFT, {gpu} {precision}"] += [
            abs(1 / node.ttft_stretch - 1) for node in by_concurrency(nodes)
        ]
        held = "Corrected, one pair of lengths held out (inside the measured range)"
        found[held]["saturated rates"] += leave_one_length_out(saturated(nodes))
        found[held]["rate by concurrency"] += leave_one_length_out(by_concurrency(nodes))
        found[held]["TTFT by concurrency"] += leave_one_length_out(by_concurrency(nodes), of="ttft")
        held = "Corrected, one concurrency held out"
        found[held]["rate"] += leave_one_concurrency_out(by_concurrency(nodes))
        found[held]["TTFT"] += leave_one_concurrency_out(by_concurrency(nodes), of="ttft")
        if saturated(nodes) and by_concurrency(nodes):
            found["Corrected by saturated rates only"]["rate by concurrency"] += [
                held_out_error(node, saturated(nodes)) for node in by_concurrency(nodes)
            ]
        found["Corrected by smaller tensor-parallel sizes (not done)"]["saturated rates"] += other_replicas(
            key, nodes_by_key
        )
    return {
        title: {row: Errors(values) for row, values in sorted(rows.items()) if values} for title, rows in found.items()
    }


def main():
    """Print every table."""
    for title, rows in tables().items():
        print(title)
        print(f"  {'':46}{'n':>5} {'mean':>8} {'p90':>8}")
        for row, errors in rows.items():
            print(f"  {row:46}{errors}")
        print()


if __name__ == "__main__":
    main()
