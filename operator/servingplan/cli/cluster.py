"""``servingplan run`` and ``servingplan world``: the commands that use a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from servingplan.cli.files import fail
from servingplan.cli.options import CatalogueNamespace, Namespace, NamespaceBudgets, Namespaces, PoolKinds, Site
from servingplan.model.names import words
from servingplan.model.world import Observation

if TYPE_CHECKING:
    from servingplan.kube import Api


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("world")(world)


def run(
    namespaces: Namespaces = "",
    pool_kinds: PoolKinds = "NodePool.karpenter.sh",
    catalogue_namespace: CatalogueNamespace = "",
    namespace_budgets: NamespaceBudgets = "",
    pod_access: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_POD_ACCESS",
            help="What the engines of plans may ask for, by comma: KIND or KIND=VALUE, such as hostIPC, "
            "serviceAccountName=reader.",
        ),
    ] = "",
    mark_machines: Annotated[
        bool,
        typer.Option(
            envvar="SERVINGPLAN_MARK_MACHINES",
            help="Mark the Machines of Cluster API whose nodes a pool is to give back, so that these go and no others.",
        ),
    ] = False,
    allowed_hosts: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_ALLOWED_HOSTS",
            help="Hosts that plans may use in URLs beside their namespace's Services: HOST or HOST:PORT, separated by commas.",
        ),
    ] = "",
    prometheus_url: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_PROMETHEUS_URL", help="URL of the Prometheus for plans without their own. Empty: none."
        ),
    ] = "",
    prometheus_token_file: Annotated[
        str,
        typer.Option(envvar="SERVINGPLAN_PROMETHEUS_TOKEN_FILE", help="File of the bearer token for that URL alone."),
    ] = "",
    prometheus_ca_file: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_PROMETHEUS_CA_FILE", help="File of the certificates that verify that URL's server."
        ),
    ] = "",
    prometheus_namespace_label: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_PROMETHEUS_NAMESPACE_LABEL", help="Label with the namespace of the scraped pod."
        ),
    ] = "namespace",
    prometheus_plan_queries: Annotated[
        bool,
        typer.Option(
            "--prometheus-plan-queries",
            envvar="SERVINGPLAN_PROMETHEUS_PLAN_QUERIES",
            help="Let plans send their own PromQL there, which can read what other namespaces measure.",
        ),
    ] = False,
    period_seconds: Annotated[
        float,
        typer.Option(envvar="SERVINGPLAN_PERIOD_SECONDS", min=1, help="Longest time between two turns of a plan."),
    ] = 15.0,
    liveness_address: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_LIVENESS_ADDRESS", help="HOST:PORT of the health endpoint. Empty: none.")
    ] = "0.0.0.0:8080",
    metrics_address: Annotated[
        str, typer.Option(envvar="SERVINGPLAN_METRICS_ADDRESS", help="HOST:PORT of the metrics. Empty: none.")
    ] = "127.0.0.1:8081",
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="SERVINGPLAN_LEASE_NAMESPACE",
            help="Namespace of the Leases that let one operator act at a time. Empty: no lease.",
        ),
    ] = "kube-system",
    solver_processes: Annotated[
        int,
        typer.Option(
            envvar="SERVINGPLAN_SOLVER_PROCESSES",
            min=0,
            help="Processes for searches that are not urgent. 0: the number of cores, less one, or fewer if memory is short.",
        ),
    ] = 0,
    most_solver_seconds: Annotated[
        float,
        typer.Option(
            envvar="SERVINGPLAN_MOST_SOLVER_SECONDS", min=1, help="Upper bound of every plan's solver.deadlineSeconds."
        ),
    ] = 600.0,
    site: Site = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every turn, and kopf's messages too.")] = False,
) -> None:
    """Run the operator with the pod's service account, or else with the user's kubeconfig."""
    import logging
    import os
    import socket
    import uuid
    from collections import defaultdict

    from servingplan.answering import in_a_thread
    from servingplan.explaining import Explainer
    from servingplan.handlers.plan import run as run_operator
    from servingplan.loop import MakeTurns
    from servingplan.metrics.exporter import PlanMetrics
    from servingplan.observe.budgets import has_budget, parse_budgets
    from servingplan.observe.cluster import Reader
    from servingplan.reconcile import SharedBudget, Turns
    from servingplan.render.pod_access import KINDS, unknown_kinds
    from servingplan.settings import Settings, SharedPrometheus
    from servingplan.solvers import Solvers

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("servingplan").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("kopf").setLevel(logging.INFO if verbose else logging.WARNING)

    def turns_of(api: Api, reader: Reader, solvers: Solvers, wake: Callable[[str, str], None]) -> MakeTurns:
        shared_budgets: defaultdict[str, SharedBudget] = defaultdict(SharedBudget)

        def make(namespace: str, name: str, metrics: PlanMetrics) -> Turns:
            return Turns(
                api=api,
                reader=reader,
                solve=solvers.of_plan(namespace),
                beside=in_a_thread(lambda: wake(namespace, name)),
                explainer=Explainer(solvers.explain, after_seconds=5.0),
                shared_budget=shared_budgets[namespace] if has_budget(namespace, budgets) else None,
                namespace=namespace,
                name=name,
                metrics=metrics,
                site=site,
            )

        return make

    if unknown := unknown_kinds(words(pod_access)):
        fail(f"--pod-access: {', '.join(unknown)}: names nothing that can be allowed; write one of {', '.join(KINDS)}")
    budgets = parse_budgets(namespace_budgets)
    settings = Settings(
        namespaces=words(namespaces),
        pool_kinds=frozenset(words(pool_kinds)),
        namespace_budgets=budgets,
        pod_access=frozenset(words(pod_access)),
        marks_machines=mark_machines,
        allowed_hosts=frozenset(words(allowed_hosts)),
        prometheus=SharedPrometheus(
            url=prometheus_url,
            token_file=prometheus_token_file,
            ca_file=prometheus_ca_file,
            namespace_label=prometheus_namespace_label,
            plan_queries=prometheus_plan_queries,
        ),
        catalogue_namespace=catalogue_namespace,
        period_seconds=period_seconds,
        liveness_address=liveness_address,
        metrics_address=metrics_address,
        lease_namespace=lease_namespace,
        solver_processes=solver_processes or None,
        most_solver_seconds=most_solver_seconds,
        identity=f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
    )
    run_operator(settings, turns_of)


def world(
    name: Annotated[str, typer.Argument(help="Name of the plan.")],
    namespace: Namespace = "default",
    catalogue_namespace: CatalogueNamespace = "",
    namespace_budgets: NamespaceBudgets = "",
    pod_access: Annotated[
        str | None,
        typer.Option(envvar="SERVINGPLAN_POD_ACCESS", help="The operator's value. Without it, everything is allowed."),
    ] = None,
) -> None:
    """Print what a turn of a live plan sees, including its plan in force, for `servingplan plan --world`."""
    seen = observed(namespace, name, catalogue_namespace, namespace_budgets=namespace_budgets, pod_access=pod_access)
    typer.echo(seen.model_dump_json(indent=1))


def observed(
    namespace: str,
    name: str,
    catalogue_namespace: str = "",
    *,
    namespace_budgets: str = "",
    pod_access: str | None = None,
    edited: dict[str, Any] | None = None,
) -> Observation:
    """What a turn of a live plan would see now, under these limits of the installation; with ``edited``, once this manifest
    of the plan is applied. Ends the command if it cannot be read."""
    from servingplan.errors import ApiError, NotFound
    from servingplan.kube import PLANS, Kube
    from servingplan.observe.budgets import parse_budgets
    from servingplan.observe.cluster import Reader
    from servingplan.observe.demand import DemandReader
    from servingplan.observe.state import ClusterState
    from servingplan.observe.urls import UrlPolicy
    from servingplan.settings import SharedPrometheus

    api = Kube.connect()
    state = ClusterState(api, namespaces=(namespace,), catalogue_namespace=catalogue_namespace or None)
    state.load()
    urls = UrlPolicy(api, allowed_hosts=None)  # URLs are asked from here, with the caller's rights
    demand = DemandReader(urls=urls, shared=SharedPrometheus(plan_queries=True))
    reader = Reader(
        api,
        state,
        pool_kinds=None,
        urls=urls,
        namespace_budgets=parse_budgets(namespace_budgets),
        pod_access=None if pod_access is None else frozenset(words(pod_access)),
        demand=demand,
    )
    try:
        if edited is not None:
            state.wrote(PLANS, _applied(api.get(PLANS, name, namespace=namespace), edited))
        seen = reader.observe(namespace, name)
    except NotFound:
        seen = None
    except ApiError as error:
        fail(f"the plan {namespace}/{name} cannot be read: {error}")
    finally:
        reader.close()
    if seen is None:
        no_plan(api, namespace, name)
    return seen


def no_plan(api: Api, namespace: str, name: str) -> NoReturn:
    """End the command since there is no such plan, or no kind of it."""
    from servingplan.errors import NotFound
    from servingplan.kube import PLANS

    try:
        api.discover(PLANS.api_version, PLANS.kind)
    except NotFound:
        fail(f"the cluster does not know the kind {PLANS.kind}; install the chart, or its CRD: docs/install.md")
    fail(f"there is no plan {name} in namespace {namespace}; list them with kubectl get lsp -A")


def _applied(found: dict[str, Any], edited: dict[str, Any]) -> dict[str, Any]:
    """The plan as the API server would have it after the manifest is applied: the next version, and the next generation
    where the spec differs."""
    metadata, spec = found["metadata"], edited.get("spec")
    generation = metadata.get("generation", 0) + (spec != found.get("spec"))
    version = str(int(metadata["resourceVersion"]) + 1)
    labels = {**(metadata.get("labels") or {}), **(edited["metadata"].get("labels") or {})}
    changed = {**metadata, "generation": generation, "resourceVersion": version, "labels": labels}
    return {**found, "metadata": changed, "spec": spec}
