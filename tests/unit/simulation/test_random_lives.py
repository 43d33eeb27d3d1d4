"""Random plans through random events: the driver watches every write, and in the end the cluster is what is planned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated.plans import fixed, model, operator, plan, sized

MODEST = settings(max_examples=6)

numbers = st.integers(0, 99)
EVENTS = [
    *("rate", "rate", "image", "budget", "lose", "silent", "speak", "cordon", "foreign", "leave"),
    *("drain", "refuse", "refuse", "sell", "blind", "crash"),
]
events = st.lists(
    st.tuples(
        st.sampled_from(EVENTS),
        numbers,
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=6,
)

TIMES = st.fixed_dictionaries(
    {
        "controllers_keep_up": st.booleans(),
        "start_ticks": st.integers(0, 5),
        "stop_ticks": st.integers(0, 4),
        "slice_ticks": st.integers(0, 3),
    }
)


class Life:
    """A plan of two models, and what may happen to it."""

    def __init__(self, pools, *, nodes, **cluster):
        self.pools = pools
        self.rates = {"llama-3.1-8b": "10", "qwen3-8b": "4"}
        self.image = "v1"
        self.budget = "30"
        self.driver = operator(self.spec(), nodes=nodes, **cluster)
        self.foreign = []

    def spec(self):
        models = [
            model(name, rate, priority=index, engine={"image": self.image, "startupSeconds": 120})
            for index, (name, rate) in enumerate(self.rates.items())
        ]
        return plan(*models, pools=self.pools, budget=self.budget)

    def happen(self, event, number):
        cluster = self.driver.cluster
        names = sorted(cluster.nodes)
        node = names[number % len(names)] if names else None
        if event == "rate":
            self.rates[sorted(self.rates)[number % 2]] = str(number % 23)
        elif event == "image":
            self.image = f"v{number}"
        elif event == "budget":
            self.budget = str(number % 40)
        elif event == "lose" and node:
            cluster.lose_node(node)
        elif event == "silent" and node:
            cluster.nodes[node].ready = False
        elif event == "speak":
            for item in cluster.nodes.values():
                item.ready = True
        elif event == "cordon" and node:
            cluster.nodes[node].schedulable = not cluster.nodes[node].schedulable
        elif event == "foreign" and node:
            cluster.run_controllers()
            if cluster.free_gpus(node) > 0:
                self.foreign.append(cluster.add_foreign_pod(node, 1))
        elif event == "leave":
            for name in self.foreign:
                if name in cluster.pods:
                    cluster.delete_pod(cluster.pods[name])
            self.foreign.clear()
        elif event == "drain" and node:
            cluster.nodes[node].schedulable = False
            for pod in [pod for pod in cluster.our_pods() if pod.node == node]:
                cluster.delete_pod(pod)
        elif event in ("refuse", "sell", "blind") and cluster.pools:
            pool = cluster.pools[sorted(cluster.pools)[number % len(cluster.pools)]]
            pool.provider_has = number % 3 if event == "refuse" else 1000
            pool.tells = number % 7 != 0
            pool.blind = event == "blind"
            cluster.run_controllers()
        elif event == "crash":
            labels = [item["nodeSelector"] for item in self.pools]
            ill = labels[number % len(labels)] if number % 3 else None
            cluster.crashes = lambda pod: "Error (exit code 1)" if pod.selector == ill else None
        cluster.edit(self.spec())

    def sizes_are_down(self):
        """What a pool refuses and tells is not asked for any more. One that is slow to tell has not done so yet."""
        if not self.driver.cluster.controllers_keep_up:
            return
        for pool in self.driver.cluster.pools.values():
            there = len(self.driver.cluster.nodes_of(pool.name)) + len(pool.booting)
            assert not pool.tells or pool.wanted <= max(there, pool.provider_has), pool.name

    def live(self, story):
        for event, number, ticks in story:
            self.happen(event, number)
            self.driver.check()
            self.driver.act()
            self.sizes_are_down()
            for _ in range(ticks):
                self.driver.tick()
                self.sizes_are_down()
        self.happen("speak", 0)
        # Where some replicas serve and others of their kind crash, those are started again for ever: no rest.
        self.driver.cluster.crashes = lambda pod: None
        self.driver.settle()
        self.driver.check_settled()


@pytest.mark.slow
@MODEST
@given(story=events, times=TIMES, boot=st.integers(0, 4))
def test_a_life_on_pools_that_are_sized(story, times, boot):
    pools = [sized(), sized("h100", gpus=2, price="9", maxNodes=3)]
    Life(pools, nodes=0, boot_ticks=boot, **times).live(story)


@pytest.mark.slow
@MODEST
@given(story=events, times=TIMES)
def test_a_life_on_fixed_nodes(story, times):
    pools = [fixed("l40s", gpus=2, price="4"), fixed("a100", gpus=4, price="8")]
    Life(pools, nodes=2, **times).live(story)


@pytest.mark.slow
@MODEST
@given(story=events, unlucky=st.integers(2, 5))
def test_a_life_in_which_some_replicas_never_get_ready(story, unlucky):
    pools = [sized(), fixed("a100", gpus=2, price="6")]
    Life(pools, nodes=1, never_ready=lambda serial: serial % unlucky == 0 and serial < 40).live(story)


def crowded(big, middle, small, image):
    """Replicas of 8, 4 and fewer GPUs on two nodes of 8."""
    roomy = {"tpotSeconds": "0.2"}
    fp8 = [{"name": "fp8", "source": "hf://meta-llama/Llama-3.1-405B-Instruct-FP8", "precision": "fp8"}]
    return plan(
        model("llama-3.1-405b", str(big), priority=5, variants=fp8, slo=roomy),
        model("mixtral-8x22b", str(middle), priority=3, slo=roomy, engine={"image": f"v{image}"}),
        model("llama-3.1-8b", str(small)),
        pools=[fixed("h100", gpus=8, price="24")],
        budget="48",
    )


@pytest.mark.slow
@settings(MODEST, max_examples=4)
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 4]),
            st.sampled_from([0, 5, 12, 20]),
            st.sampled_from([0, 20, 100, 200]),
            st.integers(1, 2),
            st.integers(0, 12),
        ),
        min_size=2,
        max_size=4,
    ),
    lost=st.booleans(),
)
def test_large_replicas_find_whole_nodes_whatever_ran_there_before(edits, lost):
    driver = operator(crowded(*edits[0][:4]), nodes=2)
    for *edit, ticks in edits:
        driver.cluster.edit(crowded(*edit))
        driver.act()
        driver.tick(ticks)
    driver.settle()
    driver.check_settled()
    if lost:
        driver.cluster.lose_node("h100-0")
        driver.settle()
        driver.cluster.add_node("h100-0", {"pool": "h100"}, 8)
        driver.settle()
        driver.check_settled()
