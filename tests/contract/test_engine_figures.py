"""The figures of an emulated engine, as a real Prometheus scrapes them and answers the query for them."""

import pytest

from e2e.support.waiting import wait_for
from localcluster import prometheus
from servingplan.demand.signals import Query
from servingplan.learning import figures
from servingplan.observe.prometheus import Source, ask
from tests.contract.test_metrics import MODEL, Emulated

pytestmark = pytest.mark.cluster
POD = "chat-llama-3-1-8b-abc123-5d8f9c7b6d-x2x4z"
WINDOW_SECONDS = 10


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A Prometheus that scrapes an engine twice, as pods of two namespaces. Windows are short, so that one is soon full."""
    try:
        prometheus.program()
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(figures, "WINDOW_SECONDS", WINDOW_SECONDS)
    engine = Emulated()
    labels = {"ours": {"namespace": "llm", "pod": POD}, "theirs": {"namespace": "other", "pod": "another"}}
    targets = dict.fromkeys(labels, engine.target)
    with prometheus.PrometheusProcess(tmp_path / "prometheus", targets, labels=labels) as server:
        yield server, engine
    engine.close()


def read(server, *, namespace_label="namespace", models=(MODEL,)):
    text = figures.query(models, namespace="llm", namespace_label=namespace_label)
    (moment,) = (float(row["value"][0]) for row in server.rows("vector(1)"))
    found = figures.read(ask(Source(server.url), Query(text), moment, reach=0))
    counts = figures.query_counts(models, namespace="llm", namespace_label=namespace_label)
    return figures.with_counts(found, ask(Source(server.url), Query(counts), moment, reach=0))


def test_the_figures_of_an_engine_are_read_by_pod_and_only_in_the_plans_namespace(running):
    server, engine = running
    both = wait_for(
        "a window of both pods is full",
        lambda: found if len(found := read(server, namespace_label=None)) == 2 else None,
        seconds=120,
    )
    assert [item.pod for item in both] == ["another", POD]
    (seen,) = wait_for("ours is read alone", lambda: read(server), seconds=120)
    assert seen.pod == POD
    assert seen.requests > 0
    assert (seen.input_tokens, seen.output_tokens) == (pytest.approx(200), pytest.approx(20))
    # Every request is alone in the engine, so all have the same times.
    assert seen.ttft_seconds == pytest.approx(engine.engine.tally.first_token.mean, rel=1e-3)
    assert seen.tpot_seconds == pytest.approx(engine.engine.tally.per_output_token.mean, rel=1e-3)
    assert seen.gap_seconds == pytest.approx(engine.engine.tally.inter_token.mean, rel=1e-3)
    assert (seen.running, seen.least_waiting) == (0, 0)
    for counts, tally in (
        (seen.ttft, engine.engine.tally.first_token),
        (seen.tpot, engine.engine.tally.per_output_token),
        (seen.prompts, engine.engine.tally.request_prompt),
    ):
        assert counts is not None
        assert counts.bounds == tally.bounds
        assert counts.total == pytest.approx(seen.requests)
        where = next(index for index, bound in enumerate(counts.bounds) if bound >= tally.mean)
        assert counts.counts[where] == pytest.approx(counts.total)
        assert where == 0 or counts.counts[where - 1] == 0
    assert read(server, models=["another-model"]) == ()
