"""How long the exact method takes for the example plan and for P1's worked example."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from benchmarks.ground import EXAMPLE
from benchmarks.report import Row, Section, alone, spread
from servingplan.cli.imagine import imagined_world
from servingplan.model.question import Question
from servingplan.planning.question import pose
from servingplan.planning.situation import Situation
from servingplan.solve import solve

WORKED_EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "questions" / "p1-worked-example.json"


def measure(quick: bool) -> Section:
    """Each question some times over."""
    questions = {
        "examples/chat.yaml": example_question(),
        "P1's worked example": Question.model_validate_json(WORKED_EXAMPLE.read_text()),
    }
    rows = []
    for name, question in questions.items():
        solve(question, method="exact", deadline_seconds=60)  # loads the solver
        found = [_once(question) for _ in range(2 if quick else 10)]
        gaps = {f"gap {gap:.0%}" for _, gap in found}
        size = f"{len(question.pools)} pools, {len(question.shapes)} shapes, {len(question.classes)} classes"
        rows.append(Row(f"{name} ({size})", f"{spread([item[0] for item in found], digits=3)}, {', '.join(gaps)}"))
    return Section(
        "Solving", "The exact method in one process, all levels proved; building the question apart.", tuple(rows)
    )


def example_question() -> Question:
    """The question of the example plan."""
    situation = Situation(imagined_world(yaml.safe_load(EXAMPLE.read_text())))
    posed, _ = pose(spec=situation.spec, pools=situation.pools, incumbent=None)
    assert posed.question is not None
    return posed.question


def _once(question: Question) -> tuple[float, float]:
    started = time.monotonic()
    answer = solve(question, method="exact", deadline_seconds=60)
    return time.monotonic() - started, answer.gap or 0.0


if __name__ == "__main__":
    alone(measure)
