"""Our HTTPRoutes behind a real Envoy Gateway: it takes them, splits as planned, follows within milliseconds, loses nothing.

Routes are written and read as the operator does it; the upstreams are servers of this process behind Services without
selectors.
"""

import http.client
import itertools
import socket
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from e2e.support import plans
from e2e.support.rights_used import Account, story_of
from e2e.support.waiting import wait_for
from localcluster import binaries, nodes
from localcluster.audit import AuditLog
from localcluster.control_plane import ControlPlane
from localcluster.envoy_gateway import EnvoyGateway
from localcluster.operator_process import NAMESPACE as HOME
from localcluster.operator_process import USER, OperatorProcess
from localcluster.ports import free_port
from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import API_VERSION, KIND
from servingplan.apply.writer import Writer
from servingplan.kube import HTTP_ROUTES, PLANS, Kube
from servingplan.observe import parse
from servingplan.observe.cluster import Reader
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy
from servingplan.routing.httproute import MOST_RULES, http_routes
from servingplan.routing.publishing import http_route_actions
from servingplan.routing.route_reports import PENDING, complaints

# An Envoy Gateway that another process runs is waited for.
pytestmark = pytest.mark.cluster
CRDS = sorted((Path(__file__).parents[2] / "charts" / "servingplan" / "crds").glob("*.yaml"))
EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway" / "httproute-limit.yaml"
NAMESPACE, PLAN, GATEWAY = "llm", "chat", "public"
UPSTREAMS = ("chat-a", "chat-b")
REQUESTS = 2000
FLIPS = 50
EDITS = 40
GUESTS = 24
"""Classes that are added and removed: more than one HTTPRoute holds."""
SLOW_SECONDS = 16.0
"""Longer than the 15 s after which Envoy ends a request by itself."""
ANSWER_SECONDS = 120.0
"""No answer takes so long on the slowest machine."""
BETWEEN = 25
"""Answers of each class between two changes."""
MARK = "mark.test"


class Upstream(ThreadingHTTPServer):
    """A model server that answers with its name; ``/slow`` takes its time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, name):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 4096  # one packet per answer

            def do_GET(self):
                if self.path == "/slow":
                    time.sleep(SLOW_SECONDS)
                self.send_response(200)
                self.send_header("content-length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *_):
                pass

        super().__init__((address, 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


def own_address():
    """An address of this machine that an EndpointSlice may hold, which a loopback one may not. Nothing is sent."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, which an EndpointSlice may not hold")
        return probe.getsockname()[0]


def service(name, address=None, port=8000):
    """A Service without a selector; without an address it has no endpoint."""
    own = {"name": name, "namespace": NAMESPACE}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": own,
        "spec": {"ports": [{"name": "http", "port": 8000, "targetPort": port}]},
    }
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**own, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}] if address else [],
    }


def entry(name, weights, *, match=None, admitted=None):
    targets = [{"service": item, "port": 8000, "weight": weight} for item, weight in weights.items()]
    targets.sort(key=lambda target: -target["weight"])
    return {"name": name, "match": match or {}, "admitRequestsPerSecond": admitted, "targets": targets}


def document(*classes, model="meta/llama", default=None, **more):
    models = {model: {"defaultClass": default or classes[-1]["name"], "classes": list(classes)}, **more}
    return {"version": 1, "plan": f"{NAMESPACE}/{PLAN}", "revision": 1, "services": [], "models": models}


def plan_manifest(parent_refs):
    tokens = {"inputTokens": 100, "outputTokens": 100, "requestsPerSecond": "1"}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": PLAN, "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": "10"},
            "models": [{"name": "meta/llama", "classes": [{"name": "chat", **tokens}]}],
            "nodePools": [{"name": "l40s", "nodeSelector": {"pool": "l40s"}}],
            "gateway": {"httpRoute": {"parentRefs": parent_refs}},
        },
    }


class Stage:
    """The gateway, and the operator's own way of writing and reading routes."""

    def __init__(self, cluster, gateway, api, port):
        self.cluster, self.gateway, self.api, self.port = cluster, gateway, api, port
        self.writer = Writer(api)
        self.uid = api.get(PLANS, PLAN, namespace=NAMESPACE)["metadata"]["uid"]
        self._marks = itertools.count()

    def observe(self):
        """The world as a turn that begins now sees it."""
        state = ClusterState(self.api, namespaces=(NAMESPACE,))
        state.load()
        urls = UrlPolicy(self.api, allowed_hosts=frozenset())
        reader = Reader(self.api, state, pool_kinds=None, urls=urls)
        try:
            return reader.observe(NAMESPACE, PLAN)
        finally:
            reader.close()

    def publish(self, routing):
        """As a turn does; gives the names that were written or deleted."""
        world = self.observe()
        spec, errors = parse_spec(world.plan.spec)
        assert (errors, world.failures, world.http_routes_unread) == ((), (), None)
        outcome = self.writer.write(http_route_actions(world, spec, routing), world=world, spec=spec)
        assert not outcome.refused, outcome.refused
        return [getattr(action, "name", None) or action.manifest["metadata"]["name"] for action in outcome.done]

    def routes(self):
        return [
            parse.object_of(item, kind="HTTPRoute", plan_uid=self.uid)
            for item in self.api.list(HTTP_ROUTES, namespace=NAMESPACE)
        ]

    def complaints(self):
        return [complaint for route in self.routes() for complaint in complaints(route)]

    def settled(self, done, seconds=15):
        """The complaints, once they are as awaited."""
        found = []

        def look():
            found[:] = self.complaints()
            return done(found)

        shown = lambda: (found, self.gateway.words())  # noqa: E731
        wait_for("the gateway's word", look, seconds=seconds, shown=shown, poll_seconds=0.02)
        return found

    def publish_all(self, routing):
        """As turns do that the gateway's word wakes: a class that is new comes in two steps."""
        while self.publish(routing):
            self.settled(lambda found: not found)

    def follow(self, routing):
        """Publish, and wait for the gateway's word, and for its Envoy to have it too."""
        self.publish_all(routing)
        self.reach()

    def reach(self):
        """Wait until the Envoy has all HTTPRoutes as they stand: they come together, and with a redirect that is set last."""
        aim = f"number-{next(self._marks)}.test"
        redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": aim, "statusCode": 302}}
        mark = {
            "apiVersion": HTTP_ROUTES.api_version,
            "kind": HTTP_ROUTES.kind,
            "metadata": {"name": "mark", "namespace": "default"},
            "spec": {
                "parentRefs": [{"name": GATEWAY, "namespace": NAMESPACE}],
                "hostnames": [MARK],
                "rules": [{"filters": [redirect]}],
            },
        }
        self.api.apply(HTTP_ROUTES, mark, manager="test", force=True)

        def arrived():
            with self.connection() as connection:
                connection.request("GET", "/", headers={"host": MARK})
                return aim in (connection.getresponse().getheader("location") or "")

        wait_for("Envoy has the routes", arrived, seconds=20, shown=self.gateway.words, poll_seconds=0.02)

    def begin(self, routing):
        """Follow, and wait until every class is answered."""
        self.follow(routing)
        (model,) = routing["models"].values()
        for name in [item["name"] for item in model["classes"]]:
            self.becomes(
                {200}, lambda name=name: {one for one, _ in self.ask(20, model="meta/llama", **{"class": name})}
            )

    def becomes(self, wanted, look):
        """Wait until what is seen is as wanted: an upstream that is new is a moment behind its route."""
        wait_for(f"the answers are {wanted}", lambda: look() == wanted, seconds=20, shown=look)

    def connection(self):
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS))

    def each(self, number, path="/", **headers):
        """(status, body) of each request, one after the other."""
        named = {f"x-servingplan-{key}": value for key, value in headers.items()}
        with self.connection() as connection:
            for _ in range(number):
                connection.request("GET", path, headers=named)
                answer = connection.getresponse()
                yield answer.status, answer.read().decode()

    def ask(self, number=1, path="/", **headers):
        """(status, body) of each request."""
        return list(self.each(number, path, **headers))


FIRST = document(entry("long-in", {"chat-b": 10000}), entry("chat", {"chat-a": 8500, "chat-b": 1500}))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    try:
        binaries.program("envoy-gateway")
    except binaries.BuildError as error:
        pytest.skip(f"Envoy Gateway cannot be built here: {str(error).splitlines()[0]}")
    address, port = own_address(), free_port(host="0.0.0.0")
    upstreams = {name: Upstream(address, name) for name in UPSTREAMS}
    with ControlPlane(audit=True) as cluster:
        cluster.install_crds(CRDS)
        with (
            EnvoyGateway(cluster, tmp_path_factory.mktemp("gateway")) as gateway,
            cluster.client() as client,
        ):
            cluster.kubectl("create", "namespace", NAMESPACE)
            backends = [item for name, one in upstreams.items() for item in service(name, address, one.server_port)]
            cluster.apply(gateway.gateway(GATEWAY, namespace=NAMESPACE, port=port), *backends, *service("idle"))
            cluster.apply(plan_manifest([{"name": GATEWAY}]))
            made = Stage(cluster, gateway, Kube(client), port)
            made.publish(FIRST)
            made.settled(lambda found: not found, seconds=60)

            def answers():
                try:
                    return made.ask(model="meta/llama")[0][0] == 200
                except (OSError, http.client.HTTPException):
                    return False

            wait_for("the gateway answers", answers, seconds=60, shown=gateway.words)
            yield made
    for one in upstreams.values():
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def slow_answers(stage):
    """Asked for at the start and looked at in the end: an answer that takes longer than gateways allow by themselves."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(stage.ask, path="/slow", model="meta/llama", **{"class": "long-in"})


def assert_share(counts, name, share):
    total = sum(counts.values())
    # Six standard deviations of a random choice: once in 500 million runs.
    assert abs(counts[name] - total * share) <= 6 * (total * share * (1 - share)) ** 0.5, counts


def test_classes_are_split_as_planned(stage, slow_answers):
    stage.follow(FIRST)
    assert stage.publish(FIRST) == [], "what stands as it should is not written again"
    counts = Counter(stage.ask(REQUESTS, model="meta/llama", **{"class": "chat"}))
    assert_share(counts, (200, "chat-a"), 0.85)
    assert set(stage.ask(20, model="meta/llama", **{"class": "long-in"})) == {(200, "chat-b")}
    both = {(200, name) for name in UPSTREAMS}
    # 200 requests miss one of the two once in 10^14 runs.
    assert set(stage.ask(200, model="meta/llama")) == both, "without a class the default one takes it"
    assert set(stage.ask(200, model="meta/llama", **{"class": "odd"})) == both
    assert {status for headers in ({}, {"model": "gpt"}) for status, _ in stage.ask(**headers)} == {404}
    print(f"split of {REQUESTS} at 8500/1500: {dict(counts)}")


def test_a_change_of_weights_is_followed(stage):
    """From before the write to the first answer by the new weights, and to the gateway's word for them."""
    followed, acknowledged = [], []
    headers = {"x-servingplan-model": "meta/llama"}
    with stage.connection() as connection:
        for flip in range(FLIPS):
            name = UPSTREAMS[flip % 2]
            routing = document(entry("chat", {name: 10000}))
            world = stage.observe()
            spec, _ = parse_spec(world.plan.spec)
            actions = http_route_actions(world, spec, routing)
            started = time.monotonic()
            assert not stage.writer.write(actions, world=world, spec=spec).refused
            (route,) = [action.manifest["metadata"]["name"] for action in actions]
            answered = acked = None
            while answered is None or acked is None:
                connection.request("GET", "/", headers=headers)
                if connection.getresponse().read().decode() == name:
                    answered = answered or time.monotonic() - started
                if acked is None:
                    item = stage.api.get(HTTP_ROUTES, route, namespace=NAMESPACE)
                    conditions = item["status"]["parents"][0]["conditions"]
                    if {one["observedGeneration"] for one in conditions} == {item["metadata"]["generation"]}:
                        acked = time.monotonic() - started
                assert time.monotonic() - started < 60, stage.gateway.words()
            followed.append(1000 * answered)
            acknowledged.append(1000 * acked)
    for what, times in (("followed", followed), ("acknowledged", acknowledged)):
        ranked = statistics.quantiles(times, n=100, method="inclusive")
        print(f"{what}: p50 {ranked[49]:.0f} ms, p99 {ranked[98]:.0f} ms of {len(times)}")


class Load:
    """Asks from several threads until the block ends; then has the answers by (class, status, body).

    Each thread has a function that tells which class to ask for next, None for none.
    """

    def __init__(self, stage, classes):
        self.answers = Counter()
        self._stage, self._classes = stage, classes
        self._counts = [0] * len(classes)
        self._ended = threading.Event()

    def __enter__(self):
        self._threads = ThreadPoolExecutor(len(self._classes))
        self._running = [self._threads.submit(self._ask, *item) for item in enumerate(self._classes)]
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._threads.shutdown()
        for one in self._running:
            self.answers += one.result()

    def go_on(self, number=BETWEEN):
        """Wait until every thread has had so many answers more."""
        goals = [count + number for count in self._counts]

        def reached():
            for one in self._running:
                if one.done():
                    one.result()
            return all(count >= goal for count, goal in zip(self._counts, goals, strict=True))

        wait_for("more answers", reached, seconds=60)

    def _ask(self, index, class_now):
        mine = Counter()
        while not self._ended.is_set():
            name = class_now()
            for status, body in self._stage.each(5, model="meta/llama", **({"class": name} if name else {})):
                mine[name, status, body] += 1
                self._counts[index] += 1
        return mine


def load(stage, *names):
    """A thread for each class."""
    return Load(stage, [lambda name=name: name for name in names])


def test_no_request_is_lost_over_twenty_changes_of_weights(stage):
    stage.begin(FIRST)
    with load(stage, "long-in", "chat") as running:
        for step in range(20):
            share = (step * 3700) % 10001
            weights = {name: weight for name, weight in zip(UPSTREAMS, (share, 10000 - share), strict=True) if weight}
            stage.publish(document(entry("long-in", {UPSTREAMS[step % 2]: 10000}), entry("chat", weights)))
            stage.settled(lambda found: not found)
            running.go_on()
    print(f"changes of weights: {dict(running.answers)}")
    assert {status for _, status, _ in running.answers} == {200}


def test_no_request_is_lost_or_led_astray_while_classes_come_go_and_change_places(stage):
    """Classes that stay keep their Services. A class that is removed and added again goes to the default class in between."""
    stay = [entry("long-in", {"chat-b": 10000}), entry("chat", {"chat-a": 10000}), entry("code", {"chat-b": 10000})]
    guest, other = entry("guest", {"chat-b": 10000}), entry("other", {"chat-b": 10000})
    long_in, chat, code = stay
    orders = (
        stay,
        [guest, *stay],
        [guest, code, chat, long_in],
        [code, chat, other, long_in],
        [long_in, other, code, guest, chat],
        [chat, code, long_in],
        [chat, code, guest, long_in],
    )
    stage.begin(document(*stay, default="chat"))
    with load(stage, "long-in", "chat", "code", "guest", None) as running:
        for step in range(EDITS):
            stage.publish_all(document(*orders[step % len(orders)], default="chat"))
            running.go_on()
    answers = running.answers
    print(f"{EDITS} edits of classes: {dict(answers)}")
    home = {"long-in": {"chat-b"}, "chat": {"chat-a"}, "code": {"chat-b"}, None: {"chat-a"}, "guest": set(UPSTREAMS)}
    lost = {found: number for found, number in answers.items() if found[1] != 200}
    astray = {found: number for found, number in answers.items() if found[1] == 200 and found[2] not in home[found[0]]}
    assert (lost, astray) == ({}, {}), f"of {answers.total()}"
    stage.follow(FIRST)


def test_no_request_of_a_class_is_lost_from_its_first_moment_to_its_last(stage):
    """Each edit adds a class whose rule has a number of its own, or takes the last one away; requests for it are there
    before and after."""
    long_in, chat = entry("long-in", {"chat-b": 10000}), entry("chat", {"chat-a": 10000})
    guests = [entry(f"guest-{number}", {"chat-b": 10000}) for number in range(GUESTS)]
    stage.begin(document(long_in, chat))
    asked = guests[0]["name"]
    with Load(stage, 3 * [lambda: asked]) as running:

        def turn(number, guests_then):
            nonlocal asked
            asked = guests[number]["name"]
            running.go_on()
            stage.publish_all(document(long_in, *guests_then, chat))
            running.go_on()

        for number in range(GUESTS):
            turn(number, guests[: number + 1])
        stage.reach()
        for number in reversed(range(GUESTS)):
            turn(number, guests[:number])
    answers = Counter()
    for (_, status, body), count in running.answers.items():
        answers[status, body] += count
    print(f"{GUESTS} classes come, then go: {dict(answers)}")
    assert set(answers) == {(200, "chat-a"), (200, "chat-b")}
    stage.follow(FIRST)


@pytest.mark.parametrize("between", [0, MOST_RULES], ids=["in one HTTPRoute", "in two"])
def test_no_request_is_lost_while_another_class_becomes_the_default_one(stage, between):
    long_in, chat = entry("long-in", {"chat-b": 10000}), entry("chat", {"chat-a": 10000})
    others = [entry(f"c{number}", {"chat-b": 10000}) for number in range(between)]
    stage.begin(document(long_in, *others, chat))
    with load(stage, "long-in", "chat", None) as running:
        for step in range(EDITS):
            last = (chat, entry("new", {"chat-b": 10000}), long_in)[step % 3]
            stage.publish_all(document(*others, *(item for item in (long_in, chat) if item is not last), last))
            running.go_on()
    answers = running.answers
    print(f"{EDITS} changes of the default class, {between} others: {dict(answers)}")
    lost = {found: number for found, number in answers.items() if found[1] != 200}
    assert lost == {}, f"of {answers.total()}"
    assert {body for name, _, body in answers if name == "long-in"} == {"chat-b"}
    assert {body for name, _, body in answers if name == "chat"} == {"chat-a"}
    stage.follow(FIRST)


def test_what_has_no_target_answers_500_and_what_is_not_ready_503(stage):
    routing = document(
        entry("none", {}),
        entry("idle", {"idle": 10000}),
        entry("shed", {"chat-a": 10000}, admitted=0),
        entry("chat", {"chat-a": 10000}),
    )
    stage.follow(routing)
    assert stage.publish(routing) == [], "an empty list stands as an empty list"
    wanted = {"none": 500, "idle": 503, "shed": 500, "chat": 200}
    stage.becomes(wanted, lambda: {name: stage.ask(model="meta/llama", **{"class": name})[0][0] for name in wanted})
    stage.follow(FIRST)


def test_a_missing_service_is_told_and_only_its_share_fails(stage):
    stage.publish(document(entry("chat", {"chat-a": 5000, "gone": 5000})))
    (complaint,) = stage.settled(lambda found: found and found[0].reason != PENDING)
    assert complaint.reason == "RefsNotResolved"
    assert "gone" in complaint.message
    assert f"{NAMESPACE}/{GATEWAY}" in complaint.message
    stage.reach()
    stage.becomes({200, 500}, lambda: {status for status, _ in stage.ask(40, model="meta/llama")})
    counts = Counter(status for status, _ in stage.ask(400, model="meta/llama"))
    assert set(counts) == {200, 500}
    assert_share(counts, 500, 0.5)
    stage.follow(FIRST)


def test_a_listener_or_gateway_that_is_not_there_is_told(stage):
    try:
        stage.cluster.apply(plan_manifest([{"name": GATEWAY, "sectionName": "https"}]))
        stage.publish(FIRST)
        found = stage.settled(lambda found: any(item.reason == "NotAccepted" for item in found))
        (message,) = [item.message for item in found if item.reason == "NotAccepted"]
        assert "listener https: NoMatchingParent" in message
        stage.cluster.apply(plan_manifest([{"name": GATEWAY}, {"name": "elsewhere"}]))
        stage.publish(FIRST)
        (complaint,) = stage.settled(lambda found: len(found) == 1)
        assert complaint.reason == PENDING
        assert "elsewhere: no word" in complaint.message
    finally:
        stage.cluster.apply(plan_manifest([{"name": GATEWAY}]))
    stage.follow(FIRST)


def test_more_classes_than_a_route_holds_go_on_in_the_next_one(stage):
    classes = [entry(f"c{index}", {UPSTREAMS[index % 2]: 10000}) for index in range(20)]
    stage.begin(document(*classes, entry("chat", {"chat-a": 10000})))
    assert len(stage.routes()) == 2
    for index in range(20):
        assert stage.ask(model="meta/llama", **{"class": f"c{index}"}) == [(200, UPSTREAMS[index % 2])], index
    assert stage.ask(model="meta/llama") == [(200, "chat-a")]
    stage.follow(FIRST)
    assert len(stage.routes()) == 1, "the second one went with its rules"


def test_a_class_can_be_limited_by_a_policy_of_the_gateway(stage):
    policy = yaml.safe_load(EXAMPLE.read_text())
    stage.cluster.apply(policy)
    try:
        wait_for(
            "the limit is kept",
            lambda: 429 in {status for status, _ in stage.ask(20, model="meta/llama", **{"class": "long-in"})},
            seconds=30,
            shown=lambda: stage.cluster.kubectl("get", "backendtrafficpolicies", "-A", "-o", "yaml"),
        )
        assert {status for status, _ in stage.ask(20, model="meta/llama", **{"class": "chat"})} == {200}
    finally:
        stage.cluster.kubectl("-n", NAMESPACE, "delete", "backendtrafficpolicies", policy["metadata"]["name"])


def test_the_api_server_takes_the_largest_route_there_can_be(stage):
    world = stage.observe()
    spec, _ = parse_spec(world.plan.spec)
    weights = {f"service-{index}": 10000 - index for index in range(40)}
    wide = [entry(f"c{index}", weights, match={"header": f"h{index}"}) for index in range(32)]
    manifests = http_routes(world.plan, spec.gateway.http_route, document(*wide, model="x" * 128))
    stage.cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def test_long_answers_are_not_cut_off(slow_answers):
    assert slow_answers.result(ANSWER_SECONDS) == [(200, "chat-b")]


def test_routes_go_with_the_plan(stage):
    owner = stage.api.get(PLANS, PLAN, namespace=NAMESPACE)
    stage.api.delete(PLANS, PLAN, uid=owner["metadata"]["uid"], namespace=NAMESPACE)
    wait_for("the HTTPRoutes are gone", lambda: not list(stage.api.list(HTTP_ROUTES, namespace=NAMESPACE)), seconds=60)


def served(image, gateway):
    """A plan of two replicas for nodes that KWOK plays."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "served", "namespace": NAMESPACE},
        "spec": {
            "budget": {"dollarsPerHour": "100"},
            "models": [plans.model(rate=30, ready_seconds=1, image=image)],
            "nodePools": [
                {
                    "name": "a100",
                    "gpu": "A100-SXM4-80GB",
                    "gpusPerNode": 4,
                    "dollarsPerNodeHour": "1",
                    "nodeSelector": {"node.kubernetes.io/instance-type": nodes.A100.name},
                }
            ],
            "change": {"drainSeconds": 1},
            "gateway": gateway,
        },
    }


def test_the_operator_does_all_this_with_the_rights_of_its_chart(stage, tmp_path, request):
    """It publishes, hears the gateway, moves to another Deployment, and takes the routes away again."""
    routed = {"httpRoute": {"parentRefs": [{"name": GATEWAY}]}}
    log = tmp_path / "operator.log"

    def published():
        conditions = stage.api.get(PLANS, "served", namespace=NAMESPACE).get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == "RoutingPublished"), {})

    def backends():
        routes = stage.api.list(HTTP_ROUTES, namespace=NAMESPACE, labels="servingplan.dev/plan=served")
        return {ref["name"] for route in routes for rule in route["spec"]["rules"] for ref in rule["backendRefs"]}

    def taken():
        found = published()
        return found.get("status") == "True" and "the gateway has taken them" in found["message"]

    def until(what, done):
        wait_for(what, done, seconds=60, shown=lambda: (published(), backends(), log.read_text()[-3000:]))

    account = Account(AuditLog(stage.cluster.audit_log), USER, home=HOME, story=story_of(request.node))
    with stage.cluster.client() as client:
        nodes.create(client, nodes.A100, 1)
    with OperatorProcess(stage.cluster, log=log, values={"namespaces": [NAMESPACE]}):
        stage.cluster.apply(served("vllm/vllm-openai:v0.18.0", routed))
        until("the gateway takes the routes", lambda: backends() and taken())
        before = backends()
        stage.cluster.apply(served("vllm/vllm-openai:v0.19.0", routed))
        until(
            "they lead elsewhere",
            lambda: published().get("status") == "True" and backends() and not backends() & before,
        )
        stage.cluster.apply(served("vllm/vllm-openai:v0.19.0", {"configMap": "served-routing"}))
        until("they are gone", lambda: not backends() and published().get("status") == "True")
    assert "Forbidden" not in log.read_text()
    account.check()
    stage.cluster.kubectl(
        "-n", NAMESPACE, "patch", "lsp", "served", "--type=merge", '-p={"metadata":{"finalizers":[]}}'
    )
