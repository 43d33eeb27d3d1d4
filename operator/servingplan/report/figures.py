"""From the page's content to its figures. Every number that is drawn also stands in a table of the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from servingplan.report.shapes import Box, Figure, Label, Stroke, band, polyline, short, ticks

COLOURS = 8
"""Colours of the style; more models share them."""
MOST_NODES = 6
"""Nodes of like content that are drawn one by one; of more, one stands for all."""
WIDTH = 960.0
CELL, GAP, NODE_GAP = 22.0, 3.0, 14.0
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
        text = f"{pool['name']}: {pool['nodes']} x {pool['gpus_per_node']} {pool['gpu']}{price}"
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
    most = max(len(sources), len(middle) + (unserved > 0), len(targets), 1)
    gap = 26.0
    height = 300.0 + gap * most
    scale = 300.0 / total
    figure = Figure(
        WIDTH, height + 20, "Requests per second from classes through replicas to pools, as in the table below"
    )
    x0, x1, x2, bar = 215.0, 500.0, 735.0, 12.0
    shapes = {item["deployment"]: item for item in page["replicas"]}
    left = _stack(sources, scale, gap)
    centre = _stack([*middle, *([("", unserved)] if unserved > 0 else [])], scale, gap)
    right = _stack(targets, scale, gap)
    models = {item["name"]: item["model"] for item in page["classes"]}
    for name, size in sources:
        figure.boxes.append(Box(x0, left[name], bar, size * scale, colour(page, models[name]), f"{name}: {size:.4g}/s"))
        figure.labels.append(Label(x0 - 6, left[name] + size * scale / 2, short(name, 30), "end"))
        figure.labels.append(Label(x0 - 6, left[name] + size * scale / 2 + 13, f"{size:.4g}/s", "end", "quiet"))
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
        figure.labels.append(Label(x1 + bar + 5, centre[name] + size * scale / 2 + 13, f"{size:.4g}/s"))
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
        figure.labels.append(Label(x2 + bar + 5, right[name] + size * scale / 2 + 13, f"{size:.4g}/s", kind="quiet"))
    return figure


def _stack(items: Sequence[tuple[str, float]], scale: float, gap: float) -> dict[str, float]:
    """The upper edge of each item, one below the other."""
    found, y = {}, 12.0
    for name, size in items:
        found[name] = y
        y += size * scale + gap
    return found


def dollars(page: Content) -> Figure:
    """$/h by pool."""
    pools = [pool for pool in page["pools"] if pool["dollars_per_hour"] is not None]
    most = max([page["budget_dollars_per_hour"], *(pool["dollars_per_hour"] for pool in pools), 1e-12])
    told = ", ".join(f"{pool['name']} {pool['dollars_per_hour']:.2f}" for pool in pools)
    figure = Figure(WIDTH, 30.0 * len(pools) + 46, f"Dollars per hour by pool: {told}")
    left, width = 150.0, 690.0
    for row, pool in enumerate(pools):
        y = 8 + 30.0 * row
        size = width * pool["dollars_per_hour"] / most
        figure.boxes.append(Box(left, y, size, 18, "pool", f"{pool['name']}: {pool['dollars_per_hour']:.2f} $/h"))
        figure.labels.append(Label(left - 8, y + 14, short(pool["name"], 18), "end"))
        figure.labels.append(Label(left + size + 6, y + 14, f"{pool['dollars_per_hour']:.2f} $/h"))
    x = left + width * page["budget_dollars_per_hour"] / most
    foot = 30.0 * len(pools) + 10
    figure.strokes.append(Stroke(polyline([(x, 2), (x, foot)]), "limit", "budget"))
    figure.labels.append(Label(x, foot + 14, f"budget {page['budget_dollars_per_hour']:.2f} $/h", "end", "quiet"))
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
    figure.labels.append(Label(left + width, top + height + 36, "budget, $/h", "end", "quiet"))
    ends: list[tuple[float, str]] = []
    for number, (pool, alone) in enumerate(sorted(of["homogeneous"].items())):
        figure.strokes.append(Stroke(_steps(alone, at), f"curve c{number % COLOURS}", f"{pool} alone"))
        ends.append((at(0, alone[-1]["served_share"])[1], f"{pool} alone"))
    figure.strokes.append(Stroke(_steps(points, at), "curve mixed", "the plan"))
    ends.append((at(0, points[-1]["served_share"])[1], "the plan"))
    for y, text in _apart(ends):
        figure.labels.append(Label(left + width + 8, y + 4, short(text, 20)))
    if page["budget_dollars_per_hour"] <= most_x:
        x, _ = at(page["budget_dollars_per_hour"], 0)
        figure.strokes.append(Stroke(polyline([(x, top), (x, top + height)]), "limit", "the plan's budget"))
    return figure


def _steps(points: Sequence[Content], at: Any) -> str:
    """What a budget buys stays until a larger one buys more."""
    path: list[tuple[float, float]] = []
    for point in points:
        if path:
            path.append((at(point["x"], 0)[0], path[-1][1]))
        path.append(at(point["x"], point["served_share"]))
    return polyline(path)


def _apart(places: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Labels that do not overlap, from the top."""
    found: list[tuple[float, str]] = []
    for y, text in sorted(places):
        found.append((max(y, found[-1][0] + 15) if found else y, text))
    return found


def latency(page: Content) -> Figure:
    """TTFT and TPOT of each class as parts of their limits: predicted, and simulated where there is a replay."""
    rows = latency_rows(page)
    figure = Figure(WIDTH, 34.0 * len(rows) + 50, "Latency of each class as a part of its limit, as in the table below")
    left, width, most = 270.0, 600.0, 1.5

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
        if item["predicted"] is not None:
            at = x(item["predicted"] / limit)
            path = f"M{at:.1f} {y - 1:.1f} l6 11 l-6 11 l-6 -11 Z"
            title = f"predicted: {item['predicted']:.3g} s at the {item['percentile']}th percentile"
            figure.strokes.append(Stroke(path, "predicted", title))
    foot = 34.0 * len(rows) + 10
    for part in (0.0, 0.5, 1.0, 1.5):
        kind = "limit" if part == 1.0 else "grid"
        figure.strokes.append(Stroke(polyline([(x(part), 4), (x(part), foot)]), kind))
        text = "limit" if part == 1.0 else f"{part:.0%}{' and more' if part == most else ''}"
        figure.labels.append(Label(x(part), foot + 16, text, "middle", "quiet"))
    return figure


def latency_rows(page: Content) -> list[dict[str, Any]]:
    """One row for TTFT and one for TPOT of each class: the limit, the worst predicted percentile over the replicas that
    serve it, and the simulated percentiles."""
    simulated = {}
    if page["replay"]:
        simulated = {f"{item['model']}/{item['name']}": item for item in page["replay"]["fleets"][0]["classes"]}
    rows = []
    for item in page["classes"]:
        for what, key in (("TTFT", "ttft"), ("TPOT", "tpot")):
            predicted = [
                found[f"{key}_percentile_seconds"]
                for found in page["latency"]
                if found["class"] == item["name"] and found[f"{key}_percentile_seconds"] is not None
            ]
            rows.append(
                {
                    "class": item["name"],
                    "what": what,
                    "limit": item[f"{key}_limit_seconds"],
                    "percentile": item["percentile"],
                    "predicted": max(predicted, default=None),
                    "simulated": simulated.get(item["name"], {}).get(f"{key}_seconds") or None,
                }
            )
    return rows
