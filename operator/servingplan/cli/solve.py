"""`servingplan solve` and `servingplan verify`: the pure core from the shell.

These commands call the same solver and verifier as the operator. Exit codes: 0 an answer, 2 wrong usage or input,
3 infeasible, 4 verification failed.
"""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from servingplan.model.answer import Answer, answer_from_json, answer_json
from servingplan.model.question import Question, QuestionError, question_from_json

WRONG_INPUT = 2
INFEASIBLE = 3
VERIFICATION_FAILED = 4


class Output(StrEnum):
    """The form of the output."""

    TABLE = "table"
    JSON = "json"


QuestionFile = Annotated[str, typer.Argument(metavar="QUESTION.json", help="The planning question; - reads stdin.")]
AnswerFile = Annotated[str, typer.Argument(metavar="ANSWER.json", help="The answer to check; - reads stdin.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]


def register(app: typer.Typer) -> None:
    """Add the commands `solve` and `verify` to a Typer application."""
    app.command("solve")(solve_command)
    app.command("verify")(verify_command)


def solve_command(
    question_file: QuestionFile,
    output: OutputOption = Output.TABLE,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop after this time and say so; default: only work limits."),
    ] = None,
    gap: Annotated[float, typer.Option(metavar="FRACTION", help="Gap at which a level counts as proved.")] = 1e-4,
    method: Annotated[
        str,
        typer.Option(
            help="How to solve: anytime, exact; or to compare: binary-search, knapsack, gh, agh, homogeneous, "
            "uniform-composition, uniform-deployment, round-robin, melange, lpr, dvr, greedy-cost."
        ),
    ] = "anytime",
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Add the worth of one more unit of each limit, and alternatives; takes up to --deadline again.",
        ),
    ] = False,
) -> None:
    """Answer a planning question: which nodes, which replicas, and which replica serves which class."""
    question = _question(question_file)
    from servingplan.solve import explain as why
    from servingplan.solve import solve

    try:
        answer = solve(question, method=method, deadline_seconds=deadline, relative_gap=gap)
        if explain:
            answer = answer.model_copy(update={"explanation": why(question, answer, deadline_seconds=deadline)})
    except QuestionError as error:
        _refuse(str(error))
    if output is Output.JSON:
        sys.stdout.write(answer_json(answer))
    else:
        _print_answer(question, answer, explain=explain)
    if answer.status == "Infeasible":
        _complain(answer.reasons, code=INFEASIBLE)


def verify_command(question_file: QuestionFile, answer_file: AnswerFile, output: OutputOption = Output.TABLE) -> None:
    """Check an answer against its question, with code that is independent of the solver."""
    if question_file == answer_file == "-":
        _refuse("QUESTION.json and ANSWER.json are both -; read at most one from stdin")
    question = _question(question_file)
    try:
        answer = answer_from_json(_read(answer_file))
    except QuestionError as error:
        _refuse(str(error), where=answer_file)
    from servingplan.verify import verify

    violations = verify(question, answer)
    if output is Output.JSON:
        report = {
            "version": 1,
            "verified": not violations,
            "violations": [{"promise": found.promise, "message": found.message} for found in violations],
        }
        sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    elif not violations:
        typer.echo("verified: the answer keeps every promise")
    if violations:
        _complain((f"{found.promise}: {found.message}" for found in violations), code=VERIFICATION_FAILED)


def _question(file: str) -> Question:
    try:
        return question_from_json(_read(file))
    except QuestionError as error:
        _refuse(str(error), where=file)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _refuse(f"cannot be read: {error.strerror}; give a file, or - for stdin", where=file)


def _refuse(message: str, *, where: str | None = None) -> NoReturn:
    """Print every line of an error message and exit with the code for wrong input."""
    prefix = f"{'stdin' if where == '-' else where}: " if where else ""
    _complain((prefix + line for line in message.splitlines()), code=WRONG_INPUT)


def _complain(lines: Iterable[str], *, code: int) -> NoReturn:
    for line in lines:
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code)


def _print_answer(question: Question, answer: Answer, *, explain: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from servingplan.cli.show import console as plain
    from servingplan.cli.show import reasons_view

    console = plain()
    reasons = answer.explanation if explain else None
    if answer.status == "Infeasible":
        if reasons is not None:
            console.print(reasons_view(reasons, None, len(question.shapes)))
        return
    summary = [f"{answer.status}, gap {answer.gap or 0.0:.2%}, {answer.seconds:.2f} s, stopped: {answer.stopped}"]
    if answer.scale is not None:
        summary.append(f"scale {answer.scale:.6g}")
    summary.append(f"{answer.dollars_per_hour:.10g} $/h of {question.budget_dollars_per_hour:.10g} $/h")
    console.print(escape("; ".join(summary)))
    for remark in answer.reasons:
        console.print(escape(remark))
    if answer.binding:
        console.print(escape("binding: " + ", ".join(answer.binding)))

    nodes = Table(title="Nodes", title_justify="left")
    for heading in ("pool", "nodes", "replicas"):
        nodes.add_column(heading, justify="right" if heading == "nodes" else "left")
    for group in answer.placements:
        content = ", ".join(f"{count} x {name}" for name, count in group.replicas.items())
        nodes.add_row(escape(group.pool), str(group.nodes), escape(content) or "idle")
    console.print(nodes)

    rates = Table(title="Requests/s", title_justify="left")
    asked = "mix" if question.objective == "MaximizeService" else "asked"
    for heading in ("class", asked, "served", "by"):
        rates.add_column(heading, justify="left" if heading in ("class", "by") else "right")
    for cls in question.classes:
        targets = answer.rates.get(cls.name, {})
        by = ", ".join(f"{name} {rate:.4g}" for name, rate in targets.items())
        rates.add_row(
            escape(cls.name), f"{cls.requests_per_second:.4g}", f"{sum(targets.values()):.4g}", escape(by) or "nobody"
        )
    console.print(rates)
    if reasons is not None:
        console.print(reasons_view(reasons, answer, len(question.shapes)))
