"""What the tables of tight budgets and of sensitivity change about an instance."""

from dataclasses import replace

from papers.p2.budgets import SCENARIOS, tightened
from papers.p2.instance import generate
from papers.p2.sensitivity import CHANGES, changed

INSTANCE = generate((6, 6, 10), 0)


def test_budget_and_penalty_of_media_alone_change():
    harder = tightened(INSTANCE, SCENARIOS[4])
    assert harder.budget == 72.0
    for before, after in zip(INSTANCE.query_types, harder.query_types, strict=True):
        factor = 5.0 if before.name in ("Image", "Video") else 1.0
        assert after == replace(before, unmet_penalty=before.unmet_penalty * factor)
    assert tightened(INSTANCE, SCENARIOS[0]) == INSTANCE


def test_the_budget_grows_with_the_query_types():
    assert tightened(generate((12, 2, 2), 0), SCENARIOS[1]).budget == 150.0


def test_one_thing_changes_at_a_time():
    assert changed(INSTANCE, CHANGES[0]) == INSTANCE
    for change in CHANGES[1:]:
        other = changed(INSTANCE, change)
        assert (other.tiers != INSTANCE.tiers) == (change.price != 1.0)
        before = [(kind.delay_slo_seconds, kind.error_slo) for kind in INSTANCE.query_types]
        after = [(kind.delay_slo_seconds, kind.error_slo) for kind in other.query_types]
        assert after == [(delay * change.delay_limit, error * change.error_limit) for delay, error in before]
        assert replace(other, tiers=INSTANCE.tiers, query_types=INSTANCE.query_types) == INSTANCE
