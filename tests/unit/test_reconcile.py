"""What a turn writes, and what it leaves when the plan is another one by the time it is planned for."""

import asyncio

import pytest

from servingplan.errors import ApiError, NotFound
from servingplan.kube import PLANS, Resource
from servingplan.reconcile import SharedBudget, Turns
from tests.simulated.driver import exact
from tests.simulated.plans import operator, plan


class Cluster:
    """A plan that was just written, for `Turns`; notes every write and does nothing about it."""

    def __init__(self):
        self.world = operator(plan()).cluster.observe()
        self.found = {"uid": self.world.plan.uid, "generation": self.world.plan.generation}
        self.written = []
        self.status = None

    def observe(self, namespace, name):
        return self.world

    def get(self, resource, name, **more):
        if resource is PLANS and self.found is not None:
            return {"metadata": {"namespace": "llm", "name": "chat", **self.found}, "status": self.world.plan.status}
        raise NotFound(404, "NotFound", name)

    def discover(self, api_version, kind):
        return Resource(api_version, f"{kind.lower()}s", kind)

    def merge(self, resource, name, patch, **more):
        self.written.append(name)
        return patch

    def apply(self, resource, manifest, **more):
        if more.get("subresource") == "status":
            self.status = manifest["status"]
        self.written.append(manifest["metadata"]["name"])
        return manifest

    def create(self, resource, manifest, **more):
        self.written.append(manifest["kind"])
        return manifest


def turns_of(cluster, solve=exact):
    return Turns(api=cluster, reader=cluster, solve=solve, namespace="llm", name="chat")


async def test_a_plan_that_stays_is_written():
    cluster = Cluster()
    report = await turns_of(cluster).take()
    assert cluster.written
    assert report.writes > 0


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: {**found, "generation": found["generation"] + 1},
        lambda found: {**found, "deletionTimestamp": "2026-11-22T04:00:00Z"},
        lambda found: {**found, "uid": "another"},
        lambda found: None,
    ],
    ids=["edited", "being deleted", "made anew", "gone"],
)
async def test_of_a_plan_that_is_another_one_by_then_nothing_is_written(edit):
    cluster = Cluster()

    def solve(*asked, **more):
        answer = exact(*asked, **more)
        cluster.found = edit(cluster.found)
        return answer

    report = await turns_of(cluster, solve).take()
    assert cluster.written == []
    assert (report.writes, report.again) == (0, True)


def ready_of(status):
    return next(item for item in status["conditions"] if item["type"] == "Ready")


@pytest.mark.parametrize("error", [ApiError(503, "ServiceUnavailable", "etcd is away"), KeyError("models")])
async def test_a_turn_that_fails_is_told_whatever_it_was(error):
    """What stood in the status before stays, but for Ready, which must not go on saying True."""
    driver = operator(plan())
    driver.settle()
    cluster = Cluster()
    cluster.world = driver.cluster.observe()
    before = cluster.world.plan.status
    assert ready_of(before)["status"] == "True"

    def observe(namespace, name):
        raise error

    cluster.observe = observe
    with pytest.raises(type(error)):
        await turns_of(cluster).take()
    told = ready_of(cluster.status)
    assert (told["status"], told["reason"]) == ("False", "TurnFailed")
    assert str(error) in told["message"]
    assert cluster.status["planHash"] == before["planHash"]
    assert len(cluster.status["conditions"]) == len(before["conditions"])


async def test_messages_name_pages_where_the_installation_has_a_site():
    """Also those that stood in the status before, each once."""
    site = "https://docs.example"
    cluster = Cluster()

    def observe(namespace, name):
        raise KeyError("models")

    cluster.observe = observe
    for _ in range(2):
        turns = Turns(api=cluster, reader=cluster, solve=exact, namespace="llm", name="chat", site=site)
        with pytest.raises(KeyError):
            await turns.take()
        message = ready_of(cluster.status)["message"]
        assert message.endswith(f" ({site}/reasons/TurnFailed/)")
        assert message.count(site) == 1
        plan = cluster.world.plan.model_copy(update={"status": cluster.status})
        cluster.world = cluster.world.model_copy(update={"plan": plan})


async def test_a_status_that_cannot_be_written_either_hides_nothing_of_the_first_error():
    cluster = Cluster()

    def observe(namespace, name):
        raise KeyError("the first error")

    def apply(*_, **__):
        raise ApiError(0, "Unreachable", "away")

    cluster.observe, cluster.apply = observe, apply
    with pytest.raises(KeyError, match="the first error"):
        await turns_of(cluster).take()


async def test_a_retirement_leaves_a_new_plan_of_the_same_name_alone():
    """Somebody took the finalizer away, and applied the plan again."""
    driver = operator(plan())
    driver.settle()
    cluster = Cluster()
    cluster.world = driver.cluster.observe()
    assert (await turns_of(cluster).retire("uid-of-before")).gone
    assert cluster.written == []


@pytest.mark.parametrize("uid", ["uid-of-before", None], ids=["another plan", "this plan"])
async def test_a_retirement_that_fails_tells_it_only_to_its_own_plan(uid):
    driver = operator(plan())
    driver.settle()
    cluster = Cluster()
    cluster.world = driver.cluster.observe()

    def observe(namespace, name):
        raise KeyError("pools")

    cluster.observe = observe
    with pytest.raises(KeyError):
        await turns_of(cluster).retire(uid or cluster.found["uid"])
    assert (cluster.status is None) == (uid is not None)


async def test_a_retirement_writes_its_clock_and_says_what_is_left():
    driver = operator(plan())
    driver.settle()
    cluster = Cluster()
    seen = driver.cluster.observe()
    cluster.world = seen.model_copy(update={"plan": seen.plan.model_copy(update={"deleting_since": seen.now})})
    report = await turns_of(cluster).retire(seen.plan.uid)
    assert not report.gone
    assert cluster.status["retirement"]["since"] == seen.now
    assert (ready_of(cluster.status)["reason"], "Event" in cluster.written) == ("Retiring", True)


class Told(Cluster):
    """Notes when a plan looks at the cluster, and when its status is written."""

    def __init__(self, name, told):
        super().__init__()
        self.name, self.told = name, told

    def observe(self, namespace, name):
        self.told.append((self.name, "looks"))
        return super().observe(namespace, name)

    def apply(self, resource, manifest, **more):
        if more.get("subresource") == "status":
            self.told.append((self.name, "tells"))
        return super().apply(resource, manifest, **more)


async def in_turns(call, /, *args, **kwargs):
    """Lets the other plan go on before each part of a turn."""
    await asyncio.sleep(0)
    return call(*args, **kwargs)


async def decided_between(budget):
    """What two plans do, each from the last look of its turn to its status."""
    told = []
    clusters = [Told(name, told) for name in "ab"]
    turns = [
        Turns(
            api=cluster,
            reader=cluster,
            solve=exact,
            namespace="llm",
            name="chat",
            elsewhere=in_turns,
            shared_budget=budget,
        )
        for cluster in clusters
    ]
    await asyncio.gather(*(turn.take() for turn in turns))
    last = {name: max(at for at, item in enumerate(told) if item == (name, "looks")) for name in "ab"}
    ends = {name: max(at for at, item in enumerate(told) if item == (name, "tells")) for name in "ab"}
    return sorted((last[name], ends[name]) for name in "ab")


async def test_plans_that_share_a_budget_spend_one_after_the_other():
    """None looks at what the others spend while another one has decided and not told yet."""
    first, second = await decided_between(SharedBudget())
    assert first[1] < second[0]
    first, second = await decided_between(None)
    assert first[1] > second[0], "without a shared budget nobody waits"


async def test_a_plan_that_hangs_keeps_no_other_plan_from_ending_its_turns():
    """Else its weights would wait, and a turn that only waits would count as one that hangs."""
    budget = SharedBudget()
    told = []
    cluster = Told("b", told)
    turns = Turns(
        api=cluster,
        reader=cluster,
        solve=exact,
        namespace="llm",
        name="chat",
        shared_budget=budget,
        wait_for_others_seconds=0.01,
    )
    assert await budget.take("slow", 60)
    report = await asyncio.wait_for(turns.take(), 60)
    budget.give_back()
    assert report.decision is None
    assert report.again
    assert not report.gone
    assert ("b", "tells") not in told
    assert (await turns.take()).decision is not None
    assert await budget.take("another", 0), "it was given back"


async def test_a_plan_that_gave_up_waiting_decides_before_those_that_came_later():
    """Else plans whose turns are short could keep one from ever deciding, such as one whose proposal waits to be approved."""
    budget, order = SharedBudget(), []

    async def wait(plan):
        assert await budget.take(plan, 60)
        order.append(plan)
        budget.give_back()

    assert await budget.take("holds", 60)
    assert not await budget.take("early", 0)
    late = asyncio.create_task(wait("late"))
    await asyncio.sleep(0)
    early = asyncio.create_task(wait("early"))
    await asyncio.sleep(0)
    budget.give_back()
    await asyncio.wait_for(asyncio.gather(late, early), 60)
    assert order == ["early", "late"]


async def test_a_plan_that_stops_while_it_waits_keeps_no_other_from_deciding():
    budget = SharedBudget()
    assert await budget.take("holds", 60)
    waits = asyncio.create_task(budget.take("stops", 60))
    await asyncio.sleep(0)
    budget.give_back()  # granted, and cancelled before it could run
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert await budget.take("another", 0)
