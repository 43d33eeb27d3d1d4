"""What a figure is made of. Lengths in units of the figure's own view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """Class of its style."""
    title: str = ""
    """What a pointer on it shows."""


@dataclass(frozen=True)
class Stroke:
    """A line or an area, by the commands of an SVG path."""

    path: str
    kind: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    """A text."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    kind: str = ""


@dataclass
class Figure:
    """One drawing."""

    width: float
    height: float
    summary: str
    """What it shows, for those who cannot see it."""
    strokes: list[Stroke] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    """Above the strokes."""
    marks: list[Stroke] = field(default_factory=list)
    """Above the boxes."""
    labels: list[Label] = field(default_factory=list)


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Through these points."""
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def band(x0: float, y0: float, x1: float, y1: float, height: float) -> str:
    """A curved band of one height from one place to another, by its upper edges."""
    middle = (x0 + x1) / 2
    return (
        f"M{x0:.1f} {y0:.1f} C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f} "
        f"L{x1:.1f} {y1 + height:.1f} C{middle:.1f} {y1 + height:.1f} {middle:.1f} {y0 + height:.1f} "
        f"{x0:.1f} {y0 + height:.1f} Z"
    )


def ticks(most: float, count: int = 5) -> list[float]:
    """Round values from 0 up to ``most``, about so many."""
    if most <= 0:
        return [0.0]
    step = 1.0
    while most / step > count:
        step *= 2.5 if f"{step:e}"[0] == "2" else 2
    while most / step < count / 2.5:
        step /= 2.5 if f"{step:e}"[0] == "5" else 2
    found, value = [], 0.0
    while value <= most * (1 + 1e-9):
        found.append(value)
        value += step
    return found


def short(text: str, most: int = 34) -> str:
    """The text, cut in the middle where it is longer."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[-half:]}"
