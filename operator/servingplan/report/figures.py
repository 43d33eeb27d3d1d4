"""Makes the page's figures from its content. Every number that is drawn also stands in a table of the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from servingplan.report.shapes import Box, Figure, Label, Stroke, band, polyline, short, ticks

COLOURS = 8
"""Colours of the style; more models share them."""
DASHES = 4
"""Dashes of lines, for those who do not tell the colours apart."""
MOST_NODES = 6
"""Nodes of like content that are drawn one by one; of more, one stands for all."""
WIDTH = 960.0
CELL, GAP, NODE_GAP = 26.0, 3.0, 14.0
FLOWS = 300.0
"""Height of all requests of a column of the flows together."""
SLOT, SPACE = 32.0, 10.0
"""Least height of one of them, which its two lines of text need, and the space below it."""
Content = Mapping[str, Any]


def colour(page: Content, model: str) -> str:
    """The style's class for a model."""
    return f"m{page['models'].index(model) % COLOURS}" if model in page["models"] else "idle"


def racks(page: Content) -> Figure:
    """Pools as rows of nodes, nodes as rows of GPUs, coloured by the model that holds them."""
    shapes = {item["deployment"]: item for item in page["replicas"]}
    figure = Figure(WIDTH, 0.0, "Nodes of each pool with their GPUs, by model: " + _told_racks(page))
    y = 8.0
    for pool in page["pools"]:
        price = "" if pool["dollars_per_node_hour"] is None else f", {pool['dollars_per_node_hour']:.2f} $/h a node"
        busy = f", {_busy(pool, shapes):.0%} busy" if pool["groups"] else ""
        text = f"{pool['name']}: {pool['nodes']} x {pool['gpus_per_node']} {pool['gpu']}{price}{busy}"
        figure.labels.append(Label(0, y + 14, text, kind="strong"))
        y += 26
        x, row = 0.0, 1
        for group in pool["groups"]:
            cells = _cells(group, shapes, pool["gpus_per_node"])
            drawn = group["nodes"] if group["nodes"] <= MOST_NODES else 1
            size = max(1, pool["gpus_per_node"])
            columns = min(size, 8)
            rows = -(-size // columns)
            width = columns * (CELL + GAP) + GAP + 6
            height = rows * (CELL + GAP) + GAP + 6
            for _ in range(drawn):
                if x + width > WIDTH:
                    x, y = 0.0, y + height + NODE_GAP + 12
                figure.boxes.append(Box(x, y, width, height, "node", _told_group(group, shapes)))
                for place in range(size):
                    item = cells[place] if place < len(cells) else None
                    kind = "idle" if item is None else colour(page, item["model"])
                    title = (
                        "free" if item is None else f"{item['model']} {item['shape']}, {item['utilization']:.0%} busy"
                    )
                    left = x + 3 + GAP + place % columns * (CELL + GAP)
                    top = y + 3 + GAP + place // columns * (CELL + GAP)
                    figure.boxes.append(Box(left, top, CELL, CELL, f"gpu {kind}", title))
                    if item is not None:  # how busy: the free part is lighter
                        free = CELL * (1 - min(1.0, item["utilization"]))
                        figure.boxes.append(Box(left, top, CELL, free, "spare"))
                x += width + NODE_GAP
                row = rows
            if drawn < group["nodes"]:
                figure.labels.append(Label(x - 4, y + 20, f"x {group['nodes']}", kind="strong"))
                x += 60
        if not pool["groups"]:
            figure.labels.append(Label(0, y + 14, "no node", kind="quiet"))
            y += 28
        else:
            y += row * (CELL + GAP) + GAP + 6 + NODE_GAP + 8
    figure.height = y
    return figure


def _cells(group: Content, shapes: Mapping[str, Content], size: int) -> list[Content]:
    """The shape that holds each of a node's ``size`` GPUs. Of a replica that spans nodes, each of them is whole its own."""
    found = []
    for deployment, copies in group["replicas"].items():
        item = shapes.get(deployment)
        if item is not None:
            found += [item] * (min(item["gpus"], size) * copies)
    return found


def _busy(pool: Content, shapes: Mapping[str, Content]) -> float:
    """The mean utilisation of a pool's GPUs; those that no replica holds count as 0."""
    size = pool["gpus_per_node"]
    held = sum(
        cell["utilization"] * group["nodes"] for group in pool["groups"] for cell in _cells(group, shapes, size)[:size]
    )
    return float(held / max(1, size * sum(group["nodes"] for group in pool["groups"])))


def _told_group(group: Content, shapes: Mapping[str, Content]) -> str:
    parts = [
        f"{copies} x {shapes[name]['model']} {shapes[name]['shape']}"
        for name, copies in group["replicas"].items()
        if name in shapes
    ]
    return ", ".join(parts) or "idle"


def _told_racks(page: Content) -> str:
    return "; ".join(f"{pool['nodes']} of {pool['name']}" for pool in page["pools"])


def flows(page: Content) -> Figure:
    """Requests of each class through replicas to pools: widths are requests/s."""
    sources = [(item["name"], item["planned"] + item["unserved"]) for item in page["classes"]]
    middle = [(item["deployment"], item["requests_per_second"]) for item in page["replicas"]]
    unserved = sum(item["unserved"] for item in page["classes"])
    by_pool: dict[str, float] = defaultdict(float)
    for item in page["replicas"]:
        by_pool[item["pool"]] += item["requests_per_second"]
    targets = sorted(by_pool.items())
    total = max(sum(size for _, size in sources), 1e-12)
    scale = FLOWS / total
    columns = (sources, [*middle, *([("", unserved)] if unserved > 0 else [])], targets)
    height = max(_column_height(column, scale) for column in columns)
    figure = Figure(
        WIDTH, height + 16, "Requests per second from classes through replicas to pools, as in the table below"
    )
    x0, x1, x2, bar = 215.0, 500.0, 735.0, 12.0
    shapes = {item["deployment"]: item for item in page["replicas"]}
    left, centre, right = (_stack(column, scale, height) for column in columns)
    models = {item["name"]: item["model"] for item in page["classes"]}
    for name, size in sources:
        figure.boxes.append(Box(x0, left[name], bar, size * scale, colour(page, models[name]), f"{name}: {size:.4g}/s"))
        figure.labels.append(Label(x0 - 6, left[name] + size * scale / 2, short(name, 30), "end"))
        figure.labels.append(Label(x0 - 6, left[name] + size * scale / 2 + 15, f"{size:.4g}/s", "end", "quiet"))
    out, into = dict(left), dict(centre)
    for flow in page["flows"]:
        size, name, to = flow["requests_per_second"], flow["class"], flow["deployment"]
        path = band(x0 + bar, out[name], x1, into[to], size * scale)
        figure.strokes.append(Stroke(path, f"flow {colour(page, models[name])}", f"{name}: {size:.4g}/s"))
        out[name] += size * scale
        into[to] += size * scale
    for item in page["classes"]:
        if item["unserved"] > 0:
            path = band(x0 + bar, out[item["name"]], x1, into[""], item["unserved"] * scale)
            figure.strokes.append(Stroke(path, "flow idle", f"{item['name']}: {item['unserved']:.4g}/s not served"))
            into[""] += item["unserved"] * scale
    end = dict(right)
    for name, size in middle:
        item = shapes[name]
        figure.boxes.append(Box(x1, centre[name], bar, size * scale, colour(page, item["model"]), f"{size:.4g}/s"))
        text = f"{item['copies']} x {item['model']} {item['shape']}"
        figure.labels.append(Label(x1 + bar + 5, centre[name] + size * scale / 2, short(text, 32)))
        figure.labels.append(Label(x1 + bar + 5, centre[name] + size * scale / 2 + 15, f"{size:.4g}/s"))
        path = band(x1 + bar, centre[name], x2, end[item["pool"]], size * scale)
        figure.strokes.append(Stroke(path, f"flow {colour(page, item['model'])}", f"{size:.4g}/s on {item['pool']}"))
        end[item["pool"]] += size * scale
    if unserved > 0:
        figure.boxes.append(Box(x1, centre[""], bar, unserved * scale, "idle", f"{unserved:.4g}/s"))
        figure.labels.append(
            Label(x1 + bar + 5, centre[""] + unserved * scale / 2 + 4, f"not served: {unserved:.4g}/s")
        )
    gpus = {pool["name"]: pool["gpu"] for pool in page["pools"]}
    for name, size in targets:
        figure.boxes.append(Box(x2, right[name], bar, size * scale, "pool", f"{name}: {size:.4g}/s"))
        text = f"{name} ({gpus.get(name, '')})"
        figure.labels.append(Label(x2 + bar + 5, right[name] + size * scale / 2, short(text, 28)))
        figure.labels.append(Label(x2 + bar + 5, right[name] + size * scale / 2 + 15, f"{size:.4g}/s", kind="quiet"))
    return figure


def _column_height(items: Sequence[tuple[str, float]], scale: float) -> float:
    return sum(max(SLOT, size * scale) + SPACE for _, size in items)


def _stack(items: Sequence[tuple[str, float]], scale: float, height: float) -> dict[str, float]:
    """The upper edge of each item, one below the other, in the middle of ``height``."""
    found, y = {}, 8 + (height - _column_height(items, scale)) / 2
    for name, size in items:
        slot = max(SLOT, size * scale)
        found[name] = y + (slot - size * scale) / 2
        y += slot + SPACE
    return found


def dollars(page: Content) -> Figure:
    """$/h by pool."""
    pools = [pool for pool in page["pools"] if pool["dollars_per_hour"] is not None]
    most = max([page["budget_dollars_per_hour"], *(pool["dollars_per_hour"] for pool in pools), 1e-12])
    told = ", ".join(f"{pool['name']} {pool['dollars_per_hour']:.2f}" for pool in pools)
    rows = [(pool["name"], pool["dollars_per_hour"], "pool") for pool in pools]
    rows.append(("together", sum(pool["dollars_per_hour"] for pool in pools), "sum"))
    figure = Figure(WIDTH, 30.0 * len(rows) + 38, f"Dollars per hour by pool: {told}")
    left, width = 150.0, 690.0
    for row, (name, value, kind) in enumerate(rows):
        y = 6 + 30.0 * row
        size = width * value / most
        figure.boxes.append(Box(left, y, size, 20, kind, f"{name}: {value:.2f} $/h"))
        figure.labels.append(Label(left - 8, y + 15, short(name, 18), "end"))
        figure.labels.append(Label(left + size + 8, y + 15, f"{value:.2f} $/h"))
    x = left + width * page["budget_dollars_per_hour"] / most
    foot = 30.0 * len(rows) + 8
    figure.strokes.append(Stroke(polyline([(x, 2), (x, foot)]), "limit", "budget"))
    figure.labels.append(Label(x, foot + 16, f"budget {page['budget_dollars_per_hour']:.2f} $/h", "end", "quiet"))
    return figure


def curve(page: Content) -> Figure:
    """Served share over budgets, the plan's and those of the fleets on one pool."""
    of = page["curve"]
    points = of["points"]
    most_x = max(point["x"] for point in points)
    most_y = max([1.0, *(point["served_share"] for point in points)])
    left, top, width, height = 60.0, 12.0, 720.0, 260.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most_x, top + height * (1 - y / most_y)

    figure = Figure(
        WIDTH, top + height + 48, "Share of the demand that is served over the budget. " + " ".join(of["remarks"][:1])
    )
    for value in ticks(most_x):
        x, y = at(value, 0)
        figure.strokes.append(Stroke(polyline([(x, top), (x, y)]), "grid"))
        figure.labels.append(Label(x, y + 16, f"{value:g}", "middle", "quiet"))
    for value in ticks(most_y):
        x, y = at(0, value)
        figure.strokes.append(Stroke(polyline([(x, y), (x + width, y)]), "grid"))
        figure.labels.append(Label(x - 6, y + 4, f"{value:.0%}", "end", "quiet"))
    figure.labels.append(Label(left, top + height + 36, "budget, $/h", "start", "quiet"))
    ends: list[tuple[float, str, str]] = []
    for number, (pool, alone) in enumerate(sorted(of["homogeneous"].items())):
        kind = f"curve c{number % COLOURS} d{number % DASHES}"
        figure.strokes.append(Stroke(_steps(alone, at), kind, f"{pool} alone"))
        ends.append((at(0, alone[-1]["served_share"])[1], f"{pool} alone", kind))
    figure.strokes.append(Stroke(_steps(points, at), "curve mixed", "the plan"))
    ends.append((at(0, points[-1]["served_share"])[1], "the plan", "curve mixed"))
    end = left + width
    for y, text, kind in _apart(ends):
        figure.strokes.append(Stroke(polyline([(end + 8, y), (end + 32, y)]), kind))
        figure.labels.append(Label(end + 38, y + 4, short(text, 20)))
    if page["budget_dollars_per_hour"] <= most_x:
        x, _ = at(page["budget_dollars_per_hour"], 0)
        figure.strokes.append(Stroke(polyline([(x, top), (x, top + height)]), "limit", "the plan's budget"))
        text = f"the plan's budget: {page['budget_dollars_per_hour']:.2f} $/h"
        figure.labels.append(Label(x, top + height + 36, text, "middle", "quiet"))
    return figure


def is_passed(of: Content) -> bool:
    """Whether some fleet on one pool serves more than the plan at the same budget, as one without priorities may."""
    return any(
        alone["served_share"] > point["served_share"] + 1e-6
        for points in of["homogeneous"].values()
        for alone, point in zip(points, of["points"], strict=True)
    )


def _steps(points: Sequence[Content], at: Any) -> str:
    """What a budget buys stays until a larger one buys more."""
    path: list[tuple[float, float]] = []
    for point in points:
        if path:
            path.append((at(point["x"], 0)[0], path[-1][1]))
        path.append(at(point["x"], point["served_share"]))
    return polyline(path)


def _apart(places: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Labels that do not overlap, from the top; the plan's is the first of those at one height."""
    found: list[tuple[float, str, str]] = []
    for y, text, kind in sorted(places, key=lambda place: (place[0], place[2] != "curve mixed", place[1])):
        found.append((max(y, found[-1][0] + 18) if found else y, text, kind))
    return found


def latency(page: Content) -> Figure:
    """TTFT and TPOT of each class as parts of their limits: predicted, observed by the engines where the plan learns, and
    simulated where there is a replay."""
    rows = latency_rows(page)
    figure = Figure(WIDTH, 34.0 * len(rows) + 50, "Latency of each class as a part of its limit, as in the table below")
    left, width, most = 270.0, 640.0, 1.25

    def x(part: float) -> float:
        return left + width * min(part, most) / most

    for row, item in enumerate(rows):
        y = 10 + 34.0 * row
        figure.labels.append(Label(left - 10, y + 13, short(f"{item['class']} {item['what']}", 40), "end"))
        limit = item["limit"]
        if limit is None:
            figure.labels.append(Label(left, y + 13, "no limit", kind="quiet"))
            continue
        simulated = item["simulated"]
        if simulated:
            low, high = x(simulated["p5"] / limit), x(simulated["p99"] / limit)
            title = f"simulated: P5 {simulated['p5']:.3g} s, P99 {simulated['p99']:.3g} s"
            figure.boxes.append(Box(low, y + 3, max(2.0, high - low), 14, "simulated", title))
            middle = x(simulated["p50"] / limit)
            figure.boxes.append(Box(middle - 1.5, y, 3, 20, "median", f"simulated P50 {simulated['p50']:.3g} s"))
        if item["mean"] is not None:
            low, high = (end / limit for end in item["band"])
            ends = "".join(f"M{x(end):.1f} {y + 6:.1f} v8 " for end in (low, high) if end < most)
            title = f"predicted mean: {item['mean']:.3g} s, band {item['band'][0]:.3g} to {item['band'][1]:.3g} s"
            figure.marks.append(Stroke(f"{ends}M{x(low):.1f} {y + 10:.1f} H{x(high):.1f}", "band", title))
        if item["predicted"] is not None:
            at = x(item["predicted"] / limit)
            path = f"M{at:.1f} {y - 1:.1f} l6 11 l-6 11 l-6 -11 Z"
            title = f"predicted: {item['predicted']:.3g} s at the {item['percentile']}th percentile"
            figure.marks.append(Stroke(path, "predicted", title))
        if item["observed"] is not None:
            at = x(item["observed"] / limit)
            title = f"observed {item['observed_at']}: {item['observed']:.3g} s, all classes of its Deployment"
            figure.boxes.append(Box(at - 2, y - 3, 4, 26, "observed", title))
    foot = 34.0 * len(rows) + 10
    for part in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        kind = "limit" if part == 1.0 else "grid"
        figure.strokes.append(Stroke(polyline([(x(part), 4), (x(part), foot)]), kind))
        text = "limit" if part == 1.0 else f"{part:.0%}{' and more' if part == most else ''}"
        figure.labels.append(Label(x(part), foot + 16, text, "end" if part == most else "middle", "quiet"))
    return figure


def latency_rows(page: Content) -> list[dict[str, Any]]:
    """One row for TTFT and one for TPOT of each class.

    A row has the limit, the worst predicted percentile over the replicas that serve the class with the mean there and the band
    around it, the simulated percentiles, and the worst that the engines of a Deployment measured: its percentile, or its mean
    if it has none.
    """
    simulated = {}
    if page["replay"]:
        simulated = {f"{item['model']}/{item['name']}": item for item in page["replay"]["fleets"][0]["classes"]}
    rows = []
    for item in page["classes"]:
        for what, key in (("TTFT", "ttft"), ("TPOT", "tpot")):
            name = f"{key}_percentile_seconds"
            found = [row for row in page["latency"] if row["class"] == item["name"] and row[name] is not None]
            slowest = max(found, key=lambda row: row[name], default=None)
            mean = None if slowest is None else slowest[f"{key}_seconds"]
            observed, at = _observed([row for row in page["latency"] if row["class"] == item["name"]], key)
            rows.append(
                {
                    "class": item["name"],
                    "what": what,
                    "limit": item[f"{key}_limit_seconds"],
                    "percentile": item["percentile"],
                    "predicted": None if slowest is None else slowest[name],
                    "mean": mean,
                    "band": None if slowest is None else [mean * ratio for ratio in slowest[f"{key}_band"]],
                    "observed": observed,
                    "observed_at": at,
                    "simulated": simulated.get(item["name"], {}).get(f"{key}_seconds") or None,
                }
            )
    return rows


def _observed(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float | None, str]:
    """The largest observed latency of these rows, and which one it is; with None if nothing was observed."""
    tails = [
        (row[f"observed_{key}_percentile_seconds"], f"P{row['observed_percentile']:g}")
        for row in rows
        if row[f"observed_{key}_percentile_seconds"] is not None and row["observed_percentile"] is not None
    ]
    means = [(row[f"observed_{key}_seconds"], "mean") for row in rows if row[f"observed_{key}_seconds"] is not None]
    return max(tails or means, default=(None, ""))
