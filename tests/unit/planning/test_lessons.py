"""Whose figures count for which kind of replica."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.model.engine import EngineSettings, Speculation
from servingplan.model.fleet import LearnedFactor, LearnedKind, UsedFactor
from servingplan.model.readings import EngineFigures, SeenEngines, SeenProfiles
from servingplan.planning.lessons import NOTHING, kind_of, lessons_of, look_at_engines, measurements
from servingplan.planning.situation import Situation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import Made
from servingplan.profiles.learned import Learned
from tests.simulated.plans import model, operator, plan

LEARN = {"planning": {"learn": True}}
MADE = Made(find_model("llama-3.1-8b"), "bf16", find_gpu("L40S"), 1, 1, EngineSettings())


@pytest.fixture(scope="module")
def settled():
    driver = operator(plan(model(rate="20"), **LEARN))
    driver.settle()
    return driver.cluster.observe()


def figures(pod, **changed):
    told = {"requests": 600.0, "input_tokens": 500.0, "output_tokens": 250.0, "ttft_seconds": 0.1}
    return EngineFigures(pod=pod, **{**told, "tpot_seconds": 0.03, "running": 5.0, "least_waiting": 0.0, **changed})


def looked(world, change=lambda pod: {}, pods=None):
    """What is learned from a window in which every pod of ours, or these, had such figures."""
    pods = [pod.name for pod in world.pods if pod.deployment is not None] if pods is None else pods
    engines = tuple(figures(name, **change(name)) for name in pods)
    seen = SeenEngines(at=world.now, window_seconds=300, engines=engines)
    world = world.model_copy(update={"engines": seen})
    situation = Situation(world)
    return look_at_engines(
        situation.record,
        world,
        spec=situation.spec,
        in_force=situation.in_force,
        pools=situation.pools,
        catalogue=situation.known.catalogue,
        rows=situation.rows,
    )


def with_pods(world, **changed):
    """The world with one of our pods changed."""
    first, *others = [pod for pod in world.pods if pod.deployment is not None]
    return world.model_copy(update={"pods": (first.model_copy(update=changed), *others)})


def test_the_replicas_of_a_deployment_are_one_look_at_their_kind(settled):
    (kind,) = looked(settled).values()
    assert kind.look.replicas == 2
    assert kind.look.requests_per_second == 2.0
    assert kind.tpot.requests == 500


def test_means_are_over_requests_not_over_replicas(settled):
    pods = [pod.name for pod in settled.pods]
    (kind,) = looked(settled, lambda pod: {} if pod == pods[0] else {"requests": 1800.0, "ttft_seconds": 0.5}).values()
    assert kind.look.ttft_seconds == pytest.approx(0.4)


def test_nothing_is_learned_while_replicas_come_go_or_drain(settled):
    assert looked(settled, pods=[settled.pods[0].name]) == {}
    assert looked(with_pods(settled, ready=False)) == {}
    assert looked(with_pods(settled, serving=False)) == {}
    assert looked(settled, pods=[]) == {}


def test_figures_of_other_pods_count_nothing(settled):
    own = [pod.name for pod in settled.pods]
    (kind,) = looked(settled, lambda pod: {} if pod in own else {"ttft_seconds": 9.0}, [*own, "another"]).values()
    assert kind.look.ttft_seconds == pytest.approx(0.1)


def test_the_time_between_tokens_stands_in_for_an_engine_that_does_not_tell_the_time_per_token(settled):
    (kind,) = looked(settled, lambda pod: {"tpot_seconds": None, "gap_seconds": 0.04}).values()
    assert kind.look.tpot_seconds == pytest.approx(0.04)


def named(made=MADE, measured="", image="vllm/vllm-openai:v0.18.0", **engine):
    spec, errors = parse_spec(plan(model(engine={"image": image, **engine})))
    assert not errors
    (found,) = spec.models
    (pool,) = Situation(operator(plan(model(engine={"image": image, **engine}))).cluster.observe()).pools
    return kind_of(found, found.effective_variants[0], pool, made, measured)


def test_a_kind_is_all_that_its_prediction_rests_on():
    kinds = [
        named(),
        named(made=MADE._replace(tensor_parallel=2)),
        named(made=MADE._replace(settings=EngineSettings(kv_cache_dtype="fp8"))),
        named(
            made=MADE._replace(
                settings=EngineSettings(speculation=Speculation(method="ngram", tokens=2, acceptance=0.5))
            )
        ),
        named(measured="another"),
        named(image="vllm/vllm-openai:v0.19.0"),
        named(extraArgs=["--enable-prefix-caching"]),
    ]
    assert len(set(kinds)) == len(kinds)
    assert named(made=MADE._replace(settings=EngineSettings(max_num_seqs=64))) == kinds[0]


def test_other_measurements_of_the_plan_are_other_kinds(settled):
    rows = SeenProfiles(config_map="rates", rows="gpu,model\n")
    assert measurements(settled) != measurements(settled.model_copy(update={"profiles": (rows,)}))


def test_what_is_known_counts_only_if_the_spec_asks_for_it(settled):
    situation = Situation(settled)
    kind = LearnedKind(
        at=settled.now, rate=LearnedFactor(log=-0.4, requests=500.0), used={"rate": UsedFactor(log=-0.4, weight=0.9)}
    )
    record = situation.record.model_copy(update={"learned": {"a kind": kind}})
    assert lessons_of(situation.spec, settled, record).known["a kind"].rate == (-0.4, 0.9)
    off = situation.spec.model_copy(update={"planning": situation.spec.planning.model_copy(update={"learn": False})})
    assert lessons_of(off, settled, record) == NOTHING
    (pool,) = situation.pools
    (one,) = situation.spec.models
    assert NOTHING.of(one, one.effective_variants[0], pool, MADE) == Learned()
