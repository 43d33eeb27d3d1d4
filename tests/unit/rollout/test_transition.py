"""The steps from the live fleet to a plan: checked by a bookkeeping of this file's own, and against what is then done."""

import math
import random
import re
from collections import Counter

import pytest

from servingplan.decide.decide import decide
from servingplan.decide.transition import transition_in_force, transition_proposed
from servingplan.planning.situation import Situation
from servingplan.status.steps import step_lines, waiting_for
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized
from tests.simulated.rates import steady_rates  # noqa: F401 (a fixture)

NEW = {"image": "vllm/vllm-openai:v0.19.0"}
BIG, LARGE = "llama-3.1-8b", "llama-3.1-405b"


def two(**more):
    return (model(BIG, "10", priority=100, **more), model("llama-3.1-70b", "1", priority=1, **more))


def on_both(**more):
    return [sized("l40s", price="2", **more), sized("h100", gpus=4, price="9", **more)]


def over_two_nodes(rate="0.1", budget="100", **more):
    """A model each replica of which is a group of pods on two nodes of eight A100."""
    slow = {"ttftSeconds": "10", "tpotSeconds": "0.3"}
    pool = sized("a100", gpus=8, price="29", zone="z1", maxNodes=8)
    return plan({**model(LARGE, rate, **more), "slo": slow}, pools=[pool], budget=budget)


CHANGES = {
    "from nothing": (None, plan()),
    "more demand": (plan(), plan(model(rate="30"))),
    "less demand": (plan(model(rate="30")), plan(model(rate="5"))),
    "a new image, and room for all": (plan(), plan(model(engine=NEW), budget="40")),
    "a new image, and room for one node": (plan(model(rate="30")), plan(model(rate="30", engine=NEW), budget="14")),
    "a new image, and no room": (plan(budget="4"), plan(model(engine=NEW), budget="4")),
    "another pool": (plan(pools=on_both()), plan(pools=[sized("h100", gpus=4, price="9")])),
    "a smaller budget": (plan(model(rate="30")), plan(model(rate="30"), budget="5")),
    "two models": (None, plan(*two(), pools=on_both(), budget="40")),
    "two models, and new images": (
        plan(*two(), pools=on_both(), budget="30"),
        plan(*two(engine=NEW), pools=on_both(), budget="30"),
    ),
    "groups from nothing": (None, over_two_nodes()),
    "groups with a new image, and no room": (over_two_nodes(), over_two_nodes(engine=NEW)),
    "groups with a new image, and room": (over_two_nodes(budget="130"), over_two_nodes(engine=NEW, budget="130")),
    "fixed nodes": (plan(pools=[fixed()]), plan(model(engine=NEW), pools=[fixed()])),
}


NAMES = [
    name
    if name in ("from nothing", "another pool", "two models, and new images", "groups with a new image, and room")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in CHANGES
]


def at_the_change(before, after):
    """An operator that has the plan of ``before``, and the world and decision of its second turn with ``after``: in the first
    one the pools that the plan has left are not read yet."""
    groups = any(item["name"] == LARGE for item in after["models"])
    driver = operator(before or after, nodes=4, boot_ticks=3, start_ticks=3, leader_worker_sets=groups)
    if before is not None:
        driver.settle()
        driver.cluster.edit(after)
    driver.turn()
    situation = Situation(driver.cluster.observe())
    return driver, situation, decide(situation, exact)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_safe_and_the_last_one_ends_at_the_plan(name):
    driver, situation, decision = at_the_change(*CHANGES[name])
    found = transition_in_force(situation, decision)
    assert found is not None
    assert found.reaches
    follow(driver.cluster, decision, found, *CHANGES[name])


def follow(cluster, decision, found, before, after):
    """The steps, by a bookkeeping of nodes and replicas that knows nothing of how they were made."""
    budget = float(after["budget"]["dollarsPerHour"])
    price = {pool["name"]: float(pool["dollarsPerNodeHour"]) for pool in (before or after)["nodePools"]}
    price |= {pool["name"]: float(pool["dollarsPerNodeHour"]) for pool in after["nodePools"]}
    models = {item["name"]: item for item in (*(before or after)["models"], *after["models"])}
    priority = {name: item.get("priority", 0) for name, item in models.items()}
    gpus = {pool["name"]: pool["gpusPerNode"] for pool in after["nodePools"]}
    facts = Situation(cluster.observe()).facts(decision.fleet)
    model_of = {name: next(key for key in priority if key.replace(".", "-") in name) for name in deployments(cluster)}
    wanted = {item.model for item in decision.fleet.replica_sets}
    nodes = Counter({name: len(cluster.nodes_of(name)) for name in cluster.pools})
    replicas = [pod for pod in cluster.our_pods() if not pod.rank]
    ready = Counter(pod.deployment for pod in replicas if cluster.is_ready(pod) and not pod.draining_since)
    draining = Counter(pod.deployment for pod in replicas if cluster.is_ready(pod) and pod.draining_since)
    removed = Counter(pod.deployment for pod in replicas if pod.terminating)
    spend = cost(nodes, price)
    asked = {name: max(count, cluster.pools[name].wanted) for name, count in nodes.items()}
    over_at_start = cost(asked, price) > budget
    for step in found.steps:
        most = Counter(nodes)
        for change in (*step.grow, *step.shrink):
            name = change.pool.removesuffix("~left")
            assert nodes[name] == change.before
            most[name], nodes[name] = max(change.before, change.nodes), change.nodes
        during = cost(most, price)
        assert during <= max(budget, spend) + 1e-6, f"{during} $/h during {step}"
        spend = cost(nodes, price)
        if cluster.pools:
            assert step.dollars_per_hour == pytest.approx(spend)
        served_before = {model_of[name] for name, count in ready.items() if count}
        for deployment, count in step.go.items():
            drained = min(count - removed[deployment], draining[deployment])
            undrained = count - removed[deployment] - drained
            # Only over the budget does somebody leave whose requests nobody takes over, and then without a drain.
            assert not undrained or over_at_start, f"{deployment} is removed and was not drained: {step}"
            ready[deployment] -= undrained
            draining[deployment] -= drained
            removed[deployment] = 0
        for deployment, count in step.drain.items():
            new = count - draining[deployment]
            assert ready[deployment] >= new, f"{deployment} drains more than it has ready: {step}"
            ready[deployment] -= new
            draining[deployment] = count
        for name in (served_before & wanted) - {model_of[key] for key, count in ready.items() if count > 0}:
            lower = [item for item in served_before if priority[item] < priority[name]]
            assert not lower, f"{name} has no replica left, and {lower} of lower priority have: {step}"
            for home in (item for item in decision.fleet.replica_sets if item.model == name and item.pool in nodes):
                empty = nodes[home.pool] - nodes_held(facts, home.pool, gpus[home.pool], ready + draining + removed)
                room = (budget - spend) // price[home.pool] + (empty if home.nodes > 1 and spend <= budget else 0)
                assert room < home.nodes, f"{name} is down, and has room: {step}"
        for deployment, count in step.come.items():
            ready[deployment] += count
    assert +ready == Counter({item.deployment: item.replicas for item in decision.fleet.replica_sets})
    assert not +draining
    assert +nodes == +Counter({name: decision.fleet.nodes[name] for name in nodes if name in decision.fleet.nodes})


def nodes_held(facts, pool, gpus, replicas):
    """The fewest nodes of a pool, with so many GPUs each, that hold these replicas, by Deployment."""
    held = [(facts[name], count) for name, count in replicas.items() if facts[name].pool == pool]
    whole = sum(item.nodes * count for item, count in held if item.nodes > 1)
    return whole + math.ceil(sum(item.gpus * count for item, count in held if item.nodes == 1) / gpus)


def cost(nodes, price):
    return sum(count * price[name] for name, count in nodes.items())


def deployments(cluster):
    return [name for kind, name in cluster.objects if kind in ("Deployment", "LeaderWorkerSet")]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_then_done_is_what_the_steps_say(name):
    driver, situation, decision = at_the_change(*CHANGES[name])
    foretold = transition_in_force(situation, decision)
    seen = []
    for _ in range(400):
        driver.act()
        now = driver.cluster.status.get("transition")
        if now is None:
            break
        if not seen or seen[-1][:2] != (now["step"], now["waitingFor"]):
            seen.append((now["step"], now["waitingFor"], now["of"]))
        driver.tick()
    told = [kinds(waiting_for(step)) for step in foretold.steps]
    assert {of for _, _, of in seen} == {len(told)}
    # A look every ten seconds may miss a step that is over sooner, and a part of a step that is over sooner lets the next
    # begin; but nothing is seen that was not foretold for then.
    for step, text, _ in seen:
        assert kinds(text) <= set().union(*told[: step + 1])
    assert [step for step, _, _ in seen] == sorted(step for step, _, _ in seen)
    assert driver.cluster.status["history"][0]["hash"] == decision.fleet.hash


def drawn(seed):
    """Two specs, of which the second one is an edit of the first."""
    draw = random.Random(seed)

    def spec():
        more = draw.choice([{}, {"engine": NEW}, {"engine": {"image": "vllm/vllm-openai:v0.20.0"}}])
        models = [model(BIG, draw.choice(["5", "10", "20", "30"]), priority=100, **more)]
        if draw.random() < 0.4:
            models.append(model("llama-3.1-70b", "1", priority=draw.choice([1, 200]), **more))
        pools = draw.choice([[sized("l40s")], on_both(), [sized("h100", gpus=4, price="9")]])
        return plan(*models, pools=pools, budget=draw.choice(["4", "9", "14", "20", "30", "45"]))

    return spec(), spec()


@pytest.mark.parametrize(
    "seed", [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(40)]
)
def test_every_step_of_a_random_edit_is_safe(seed):
    before, after = drawn(seed)
    driver, situation, decision = at_the_change(before, after)
    found = transition_in_force(situation, decision)
    if found is not None:
        assert found.reaches
        follow(driver.cluster, decision, found, before, after)


def drawn_groups(seed):
    """Two specs of a model that runs over two nodes, and mostly of one of another priority that does not. The second spec is an
    edit of the first."""
    draw = random.Random(seed)

    def spec():
        more = draw.choice([{}, {"engine": NEW}, {"engine": {"image": "vllm/vllm-openai:v0.20.0"}}])
        small = model(BIG, draw.choice(["5", "10", "30"]), priority=draw.choice([1, 200]), **more)
        found = over_two_nodes(draw.choice(["0.1", "3", "5"]), draw.choice(["60", "120", "180", "240"]), **more)
        pools = draw.choice([[], [sized("l40s")], [sized("h100", gpus=4, price="9")]])
        models = [*found["models"], small] if draw.random() < 0.8 else found["models"]
        return {**found, "models": models, "nodePools": [*found["nodePools"], *pools]}

    return spec(), spec()


ONCE_UNSAFE = (3, 5, 63)
"""Edits whose steps were unsafe once: a replica left while the nodes in whose place its successor could come were given back
(3), a higher priority lost its only replica (5), and one that could stay was removed to make way (63)."""


@pytest.mark.parametrize(
    "seed", [seed if seed in ONCE_UNSAFE else pytest.param(seed, marks=pytest.mark.slow) for seed in range(60)]
)
def test_every_step_of_a_random_edit_with_groups_is_safe(seed):
    before, after = drawn_groups(seed)
    driver, situation, decision = at_the_change(before, after)
    found = transition_in_force(situation, decision)
    if found is not None:
        assert found.reaches
        follow(driver.cluster, decision, found, before, after)


def test_a_turn_that_leaves_a_pool_asks_for_nothing_as_long_as_it_has_not_read_what_that_pool_costs():
    small = model(BIG, "30", priority=1)
    before, after = over_two_nodes("0.1", "120"), over_two_nodes("5", "120", engine=NEW)
    before = {**before, "models": [*before["models"], small], "nodePools": [*before["nodePools"], sized("l40s")]}
    after = {**after, "models": [*after["models"], {**small, "engine": NEW}]}
    driver, _, _ = at_the_change(before, after)
    pools = driver.cluster.pools
    assert pools["l40s"].wanted > 2, "the second spec does not name what these cost"
    assert 29 * pools["a100"].wanted + 2 * pools["l40s"].wanted <= 120


def kinds(text):
    return set(re.sub(r": \d+", "", text).split("; "))


def test_a_turn_at_rest_has_no_steps_and_writes_nothing():
    driver = operator(plan())
    driver.settle()
    status = driver.cluster.status
    assert "transition" not in status
    driver.tick(30)
    assert driver.cluster.status == status
    situation = Situation(driver.cluster.observe())
    assert transition_in_force(situation, decide(situation, exact)) is None


def test_the_same_world_gives_the_same_steps_whoever_asks():
    _, situation, decision = at_the_change(*CHANGES["two models, and new images"])
    again = Situation(situation.world)
    assert transition_in_force(situation, decision) == transition_in_force(again, decide(again, exact))


def test_nodes_and_replicas_take_as_long_as_the_longest_of_the_last_ones_and_what_is_not_known_is_left_out():
    driver = operator(plan(), boot_ticks=7, start_ticks=4)
    first = Situation(driver.cluster.observe())
    assert {step.seconds for step in transition_in_force(first, decide(first, exact)).steps} == {None}
    driver.settle()
    driver.cluster.edit(plan(model(rate="30")))
    situation = Situation(driver.cluster.observe())
    first, second = transition_in_force(situation, decide(situation, exact)).steps
    assert (first.seconds, second.seconds) == (70, 40)


def test_a_lost_node_makes_the_number_of_steps_grow_and_never_goes_back():
    driver = operator(plan(model(rate="30")), boot_ticks=3, start_ticks=4)
    driver.act()
    steps = []
    for tick in range(40):
        driver.tick()
        if tick == 4:
            driver.cluster.lose_node(next(iter(driver.cluster.nodes)))
        if now := driver.cluster.status.get("transition"):
            steps.append((now["step"], now["of"]))
    assert steps == sorted(steps)
    assert all(step <= of for step, of in steps)
    assert steps[-1][1] > steps[0][1]


def test_a_pool_that_gives_nothing_leaves_the_step_where_it_is_and_says_since_when():
    driver = operator(plan())
    driver.cluster.pools["l40s"].provider_has, driver.cluster.pools["l40s"].tells = 0, False
    driver.act()
    first = driver.cluster.status["transition"]
    driver.tick(10)
    assert driver.cluster.status["transition"] == first
    assert (first["step"], first["of"], first["waitingFor"]) == (1, 2, "nodes of l40s: 2")
    assert first["since"] < driver.cluster.time


def test_in_a_large_fleet_the_number_of_steps_is_a_lower_bound_that_grows(monkeypatch):
    driver, situation, decision = at_the_change(*CHANGES["a new image, and room for one node"])
    whole = len(transition_in_force(situation, decision).steps)
    looked_at = transition_in_force(situation, decision, 1.0)
    assert (len(looked_at.steps), looked_at.more, looked_at.reaches) == (1, True, False)
    assert step_lines(looked_at)[-1] == "and more steps, which were not looked at"
    monkeypatch.setattr("servingplan.status.steps.MOST_WORK", 1.0)
    seen = []
    for _ in range(400):
        driver.act()
        if (now := driver.cluster.status.get("transition")) is None:
            break
        seen.append((now["step"], now["of"]))
        driver.tick()
    assert seen[0] == (1, 1)
    assert seen == sorted(seen)
    # A step that is over within ten seconds is not seen.
    assert whole - 2 <= seen[-1][0] <= whole


def test_a_look_ahead_that_raises_fails_no_turn(monkeypatch, caplog):
    def broken(*_):
        raise ValueError("a corner")

    monkeypatch.setattr("servingplan.status.steps.step_in_force", broken)
    driver = operator(plan())
    driver.settle()
    assert next(item for item in driver.cluster.status["conditions"] if item["type"] == "Ready")["status"] == "True"
    assert "cannot be foretold" in caplog.text


def test_steps_are_told_in_lines():
    _, situation, decision = at_the_change(*CHANGES["from nothing"])
    (replica_set,) = decision.fleet.replica_sets
    assert step_lines(transition_in_force(situation, decision)) == [
        "1. l40s grows from 0 to 2 nodes: then 4.00 $/h",
        f"2. 2 of {replica_set.deployment} start: then 4.00 $/h",
    ]


def test_a_plan_that_waits_has_its_steps_from_where_the_fleet_is():
    driver = operator(plan(mode="Approve"))
    driver.settle()
    driver.cluster.approved = driver.cluster.status["proposedPlanHash"]
    driver.settle()
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    situation = Situation(driver.cluster.observe())
    decision = decide(situation, exact)
    assert transition_in_force(situation, decision) is None
    proposed = transition_proposed(situation, decision, decision.waiting)
    assert waiting_for(proposed.steps[0]).startswith("nodes of l40s")
    assert proposed.reaches
