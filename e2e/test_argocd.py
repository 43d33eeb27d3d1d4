"""Argo CD installs the chart, its definition and a plan from Git, and goes along with what the plan does to its pools."""

import shutil
import threading

import pytest
import yaml

from e2e.support import plans
from e2e.support.cluster import NODE_POOLS, get_or_none, own_cluster
from e2e.support.operator import CHART
from e2e.support.scene import GPU_TYPES
from e2e.support.waiting import hold, wait_for
from localcluster import argocd, karpenter
from localcluster.argocd import ArgoCd, GitRepository
from localcluster.control_plane import wait_until_established
from localcluster.nodes import A100, L40S
from servingplan.kube import DEPLOYMENTS, PLANS, SERVICES, Resource

APPLICATIONS = Resource("argoproj.io/v1alpha1", "applications", "Application")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
HOME = "servingplan-system"
WAVE = "argocd.argoproj.io/sync-wave"
OPTIONS = "argocd.argoproj.io/sync-options"
SIZE_OF_POOLS = [{"group": "karpenter.sh", "kind": "NodePool", "jsonPointers": ["/spec/replicas"]}]
WRITTEN_BY_US = [{"group": "karpenter.sh", "kind": "NodePool", "managedFieldsManagers": ["servingplan-pools"]}]


@pytest.fixture(scope="module")
def cluster():
    """One of its own, in which nobody has installed the definition of plans."""
    with own_cluster(with_crd=False) as made:
        yield made


@pytest.fixture(scope="module")
def feed():
    """Nobody watches: kinds are missing at first."""


@pytest.fixture
def argo(cluster, scene, tmp_path):
    """Argo CD with the chart's script, and a repository with the chart."""
    for path in argocd.crd_files():
        cluster.kubectl("apply", "--server-side", "-f", str(path))
    for name in ("applications.argoproj.io", "appprojects.argoproj.io"):
        wait_until_established(cluster.kubectl, name)
    settings = yaml.safe_load((CHART / "files" / "argocd-cm.yaml").read_text())["data"]
    cluster.apply(*argocd.objects(settings))
    repository = GitRepository(tmp_path / "repository")
    shutil.copytree(CHART, repository.folder / "charts" / "servingplan")
    with ArgoCd(cluster.kubeconfig, tmp_path / "argocd") as running:
        yield Application(cluster, scene, repository, running)


class Application:
    """The Application of the story: the chart, and what the repository has beside it."""

    def __init__(self, cluster, scene, repository, argo):
        self.cluster, self.scene, self.repository, self.argo = cluster, scene, repository, argo

    def apply(self, ignored, **helm):
        """``helm``: more of how the chart is rendered."""
        self.cluster.apply(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": "plans", "namespace": argocd.NAMESPACE},
                "spec": {
                    "project": "default",
                    "destination": {"server": "https://kubernetes.default.svc", "namespace": HOME},
                    "sources": [
                        {
                            "repoURL": self.repository.url,
                            "path": "charts/servingplan",
                            "targetRevision": "main",
                            "helm": {
                                "releaseName": "servingplan",
                                "valuesObject": {
                                    "namespaces": [self.scene.namespace],
                                    "uninstallGuard": {"enabled": False},
                                },
                                **helm,
                            },
                        },
                        {"repoURL": self.repository.url, "path": "deploy", "targetRevision": "main"},
                    ],
                    "ignoreDifferences": ignored,
                    "syncPolicy": {
                        "automated": {"prune": True, "selfHeal": True},
                        "syncOptions": [
                            "CreateNamespace=true",
                            "ServerSideApply=true",
                            "RespectIgnoreDifferences=true",
                        ],
                    },
                },
            },
            manager="story",
        )

    def commit(self, **files):
        """Commit, and let Argo CD look at once; a webhook does it elsewhere."""
        self.repository.commit(**files)
        self.refresh()

    def refresh(self):
        name = ("application", "plans", "-n", argocd.NAMESPACE)
        self.cluster.try_kubectl("annotate", *name, "argocd.argoproj.io/refresh=normal", "--overwrite")

    def status(self):
        return self.cluster.api.get(APPLICATIONS, "plans", namespace=argocd.NAMESPACE).get("status") or {}

    def health(self, kind="LLMServingPlan"):
        """Health and message of the first resource of a kind."""
        found = [item for item in self.status().get("resources", ()) if item["kind"] == kind]
        health = (found[0].get("health") or {}) if found else {}
        return health.get("status"), health.get("message", "")

    def wait_health(self, wanted, *words):
        def look():
            status, message = self.health()
            return status == wanted and all(word in message for word in words) and (message or wanted)

        return wait_for(f"Argo CD says {wanted} {words}", look, seconds=20, shown=self.shown)

    def wait_synced(self, wanted="Healthy"):
        def look():
            status = self.status()
            revisions = set(status.get("sync", {}).get("revisions", ()))
            health = status.get("health", {}).get("status")
            return status.get("sync", {}).get("status") == "Synced" and health == wanted and revisions == {self.head()}

        wait_for(f"the Application is Synced and {wanted}", look, seconds=20, shown=self.shown)

    def wait_compared(self, ignored):
        """Wait until Argo CD compares with these exceptions and no sync is under way."""

        def look():
            status = self.status()
            compared = status.get("sync", {}).get("comparedTo", {}).get("ignoreDifferences") == ignored
            return compared and status.get("operationState", {}).get("phase") == "Succeeded"

        wait_for("Argo CD compares with other exceptions", look, seconds=20, shown=self.shown)

    def head(self):
        return (self.repository.folder / ".git" / "refs" / "heads" / "main").read_text().strip()

    def shown(self):
        status = self.status()
        resources = [
            (item["kind"], item["name"], item.get("status"), item.get("health")) for item in status.get("resources", ())
        ]
        said = (
            status.get("sync", {}).get("status"),
            status.get("health"),
            status.get("operationState", {}).get("message"),
        )
        return f"{said} {resources} {status.get('conditions')}; the operator: {self.scene.words()[-1500:]}"

    def watched(self):
        return Watched(self)


class Watched:
    """Looks all the time at what is out of sync."""

    def __init__(self, application):
        self._application = application
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.out_of_sync = set()
        self.looks = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.is_set():
            resources = self._application.status().get("resources", ())
            self.out_of_sync |= {item["kind"] for item in resources if item.get("status") == "OutOfSync"}
            self.looks += 1
            self._over.wait(0.1)


def made(cluster, resource, name, namespace=None):
    """When an object was made."""
    return cluster.api.get(resource, name, namespace=namespace)["metadata"]["creationTimestamp"]


@pytest.mark.usefixtures("karpenter")
def test_an_application_follows_its_plan(cluster, scene, argo):
    scene.fixed(L40S, 1, price=1)  # for the pod of the operator's Deployment
    own = f"{scene.name}-rented"
    pool = karpenter.static_node_pool(
        A100,
        name=own,
        annotations={karpenter.ALLOWED_NAMESPACES_ANNOTATION: scene.namespace, WAVE: "1"},
        node_class_name="servingplan-e2e",
    )
    entry = {
        "name": "rented",
        "gpu": GPU_TYPES[A100.name],
        "gpusPerNode": A100.gpus,
        "dollarsPerNodeHour": "20",
        "maxNodes": 4,
        "nodeSelector": {"karpenter.sh/nodepool": own},
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": own},
    }

    def plan(rate, budget=90, **more):
        change = {"drainSeconds": 1, "minLifetime": "1s"}
        found = plans.plan(scene.namespace, [plans.model(rate=rate)], [entry], budget=budget, change=change, **more)
        found["metadata"]["annotations"] = {WAVE: "2", OPTIONS: "SkipDryRunOnMissingResource=true"}
        return found

    def size():
        return cluster.api.get(NODE_POOLS, own)["spec"]["replicas"]

    # In waves: the definition, the operator until it is healthy, the pool, the plan. Nobody has seen the plan yet.
    note = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note"}}  # Git keeps no empty folder
    argo.repository.commit(note=note, pool=pool, plan=plan(60))
    argo.apply(SIZE_OF_POOLS)
    argo.wait_health("Progressing", "waiting for the operator")
    available = next(
        item["lastTransitionTime"]
        for item in cluster.api.get(DEPLOYMENTS, "servingplan", namespace=HOME)["status"]["conditions"]
        if item["type"] == "Available"
    )
    waves = [
        made(cluster, CRDS, "llmservingplans.servingplan.dev"),
        available,
        made(cluster, NODE_POOLS, own),
        made(cluster, PLANS, "chat", scene.namespace),
    ]
    assert waves == sorted(waves)

    # The operator acts with the rights that Argo CD has installed.
    with scene.operator_of("servingplan", namespace=HOME):
        scene.wait_ready()
        argo.wait_synced()
        assert size() == 1, "Git says 0"

        # The pool grows, weights change; both are the plan's own business.
        with argo.watched() as watched:
            argo.commit(plan=plan(120))
            wait_for("the pool grows", lambda: size() == 2, seconds=20, shown=argo.shown)
            scene.wait_ready(such=lambda status: status["models"] == "1/1")
            argo.wait_synced()
            hold("the size stays through syncs", lambda: size() == 2, seconds=8)
        assert "NodePool" not in watched.out_of_sync
        assert watched.looks > 20

        # A plan that waits for approval is Suspended, and goes on once it is approved.
        argo.commit(plan=plan(60, mode="Approve"))
        argo.wait_health("Suspended", "servingplan.dev/approve")
        waiting = scene.plan()["status"]["proposedPlanHash"]
        cluster.kubectl("annotate", "lsp", "chat", "-n", scene.namespace, f"servingplan.dev/approve={waiting}")
        argo.wait_synced()
        wait_for("the pool shrinks", lambda: size() == 1, seconds=20, shown=argo.shown)

        # An infeasible plan is Degraded, with the reason; what runs goes on.
        argo.commit(plan=plan(60, budget=30, resilience={"survive": [{"event": "AnyNode"}]}))
        argo.wait_health("Degraded", "Infeasible")
        argo.commit(plan=plan(60))
        argo.wait_synced()

        # Somebody's edit is undone.
        scene.edit("chat", {"budget": {"dollarsPerHour": "77"}})
        wait_for(
            "the edit is undone",
            lambda: scene.plan()["spec"]["budget"]["dollarsPerHour"] == "90",
            seconds=30,
            shown=argo.shown,
        )
        scene.wait_ready()

        # Without the exception Argo CD sets the size from Git, and the plan leaves it alone and says so.
        argo.apply([])
        message = scene.wait_condition("NodePoolsReady", "FieldOwnershipConflict", seconds=30)
        assert "argocd-controller" in message
        argo.apply(WRITTEN_BY_US)
        argo.wait_compared(WRITTEN_BY_US)
        argo.wait_health("Degraded")
        cluster.kubectl("annotate", "nodepool", own, "servingplan.dev/claimed-by-")
        argo.wait_synced()
        assert size() == 1

        # What leaves Git leaves the cluster: the plan first, which gives its pool back, then the pool.
        argo.commit(plan=None, pool=None)
        # Argo CD asks for the plan's deletion first; where its own cache is late, it does not wait for the end of it.
        wait_for(
            "plan and pool are gone",
            lambda: (
                not (
                    get_or_none(cluster.api, PLANS, "chat", scene.namespace)
                    or get_or_none(cluster.api, NODE_POOLS, own)
                )
            ),
            seconds=30,
            shown=argo.shown,
        )
        argo.wait_synced()
        wait_for(
            "nothing of the plan is left",
            lambda: not scene.deployments() and not list(cluster.api.list(SERVICES, namespace=scene.namespace)),
            seconds=30,
        )

        # The definition stays where it leaves Git, as when a chart of its own takes over: with it every plan would go.
        definition = cluster.api.get(CRDS, "llmservingplans.servingplan.dev")["metadata"]["uid"]
        argo.apply(WRITTEN_BY_US, skipCrds=True)
        argo.refresh()
        wait_for("Argo CD has no definition", lambda: argo.health("CustomResourceDefinition") == (None, ""), seconds=20)
        argo.wait_synced()
        assert cluster.api.get(CRDS, "llmservingplans.servingplan.dev")["metadata"]["uid"] == definition
