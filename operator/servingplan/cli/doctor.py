"""``servingplan doctor``: what a cluster has and lacks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from servingplan.cli.files import fail

if TYPE_CHECKING:
    from servingplan.doctor.facts import Finding

REQUEST_SECONDS = 4.0
"""The longest time of one request, so that a cluster that does not answer is reported soon."""
PROBLEM_EXIT_CODE = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of plans.")] = "default",
    account: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Account whose rights are asked for, such as system:serviceaccount:NAMESPACE:NAME of the operator. Without "
            "it: your own.",
        ),
    ] = None,
    prometheus_url: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_PROMETHEUS_URL", help="URL of the installation's Prometheus. Empty: the operator's."
        ),
    ] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table",
) -> None:
    """Say what this cluster has and lacks for plans, each with what to do. Exit code 3: there is a problem."""
    from servingplan.doctor.facts import Severity
    from servingplan.doctor.judge import judge, worst
    from servingplan.doctor.read import read
    from servingplan.errors import ApiError
    from servingplan.kube import Kube

    if output not in ("table", "json"):
        fail(f"--output: {output!r}: is not known; give table or json")
    api = Kube.connect(timeout_seconds=REQUEST_SECONDS, retry_seconds=0.0)
    try:
        facts = read(api, namespace=namespace, account=account, prometheus_url=prometheus_url)
    except ApiError as error:
        what = "does not say what it serves" if error.status else "does not answer"
        fail(f"the API server {what}: {error.message}; check the cluster and the kubeconfig")
    findings = judge(facts)
    level = worst(findings)
    if output == "json":
        said = {
            "version": 1,
            "namespace": namespace,
            "account": account,
            "severity": level,
            "findings": [asdict(item) for item in findings],
        }
        typer.echo(json.dumps(said, indent=1))
    else:
        for item in findings:
            typer.echo(_line(item))
    if level is Severity.problem:
        raise typer.Exit(PROBLEM_EXIT_CODE)


def _line(finding: Finding) -> str:
    text = f"{finding.severity:<8} {finding.check:<12} {finding.message}"
    return text if finding.fix is None else f"{text}\n{'':<22}{finding.fix}"
