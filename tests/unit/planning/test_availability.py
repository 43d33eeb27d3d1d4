"""How many nodes a pool gives: asked n, got m, until when."""

from hypothesis import given
from hypothesis import strategies as st

from servingplan.model.fleet import PoolStock
from servingplan.model.times import later, seconds_between
from servingplan.model.world import Refusal
from servingplan.planning.availability import (
    FIRST_PATIENCE_SECONDS,
    LEAST_PATIENCE_SECONDS,
    LONGEST_BACK_OFF_SECONDS,
    LONGEST_BOOT_SECONDS,
    Seen,
    due_in_seconds,
    learned,
    patience_seconds,
)

START = "2026-01-01T00:00:00Z"


def at(after):
    return later(START, after)


def refused(after):
    return Refusal(at=at(after), message="no offering has capacity")


class Market:
    """Looks at a pool, one after the other."""

    def __init__(self):
        self.stock = PoolStock()

    def look(self, after, asked, came, *, existing=None, may_probe=True, **more):
        seen = Seen(asked=asked, came=came, existing=came if existing is None else existing, **more)
        self.stock = learned(self.stock, seen, now=at(after), may_probe=may_probe)
        return self.stock.cap


def test_a_refusal_caps_the_pool_at_what_is_there():
    market = Market()
    assert market.look(0, 3, 1) is None
    cap = market.look(2, 3, 1, existing=2, refusal=refused(1))
    assert (cap.nodes, cap.reason, cap.until, cap.probing) == (2, "InsufficientCapacity", at(302), False)
    assert "capacity" in cap.message


def test_the_same_refusal_counts_once_and_claims_in_flight_change_nothing():
    market = Market()
    market.look(0, 3, 0)
    first = market.look(2, 3, 0, refusal=refused(1))
    assert market.look(3, 0, 0, refusal=refused(1)) == first
    assert market.look(4, 0, 0, refusal=refused(3)) == first


def test_a_refusal_of_a_node_that_came_in_the_end_caps_nothing():
    market = Market()
    market.look(0, 1, 0)
    assert market.look(2, 1, 1, refusal=refused(1)) is None


def test_an_old_refusal_says_nothing_of_today():
    market = Market()
    assert market.look(0, 2, 0, refusal=refused(-301)) is None
    assert Market().look(0, 2, 0, refusal=refused(-200)).nodes == 0


def test_each_refused_probe_doubles_the_time_up_to_an_hour():
    market = Market()
    now, asked_at, lasting = 2, 0, []
    market.look(0, 1, 0)
    for _ in range(6):
        cap = market.look(now, 1, 0, refusal=refused(now - 1))
        lasting.append(seconds_between(cap.since, cap.until))
        asked_at = now + cap.back_off_seconds
        market.look(now + 1, 0, 0)
        assert market.look(asked_at, 0, 0).probing
        market.look(asked_at + 1, 1, 0)
        now = asked_at + 3
    assert lasting == [300, 600, 1200, 2400, 3600, 3600]
    assert lasting[-1] == LONGEST_BACK_OFF_SECONDS


def test_a_probe_that_comes_ends_the_cap():
    market = Market()
    market.look(0, 2, 0)
    market.look(2, 2, 0, refusal=refused(1))
    market.look(3, 0, 0)
    assert market.look(302, 0, 0).probing
    assert market.look(303, 1, 0).probing
    assert market.look(330, 1, 1) is None


def test_a_cap_without_room_for_a_probe_stays():
    market = Market()
    market.look(0, 2, 0)
    market.look(2, 2, 0, refusal=refused(1))
    assert not market.look(400, 0, 0, may_probe=False).probing
    assert market.look(401, 0, 0).probing
    assert market.look(402, 1, 0, may_probe=False).probing, "a probe that is under way is not called off"


def test_without_a_word_time_tells():
    market = Market()
    market.look(0, 3, 0)
    assert market.look(FIRST_PATIENCE_SECONDS - 1, 3, 1) is None
    assert due_in_seconds(market.stock, at(FIRST_PATIENCE_SECONDS - 1)) is not None
    assert patience_seconds(market.stock) == 2 * (FIRST_PATIENCE_SECONDS - 1), "by the node that came"
    cap = market.look(2 * FIRST_PATIENCE_SECONDS, 3, 1)
    assert (cap.nodes, cap.reason) == (1, "NotComing")
    assert "1 of 3 nodes came within" in cap.message


def test_a_pool_whose_nodes_came_soon_is_given_up_soon():
    market = Market()
    market.look(0, 1, 0)
    market.look(200, 1, 1)
    assert market.stock.boot_seconds == (200.0,)
    market.look(1000, 2, 1)
    assert due_in_seconds(market.stock, at(1000)) == 400
    assert market.look(1399, 2, 1) is None
    assert market.look(1400, 2, 1).nodes == 1


def test_a_node_that_comes_back_is_no_boot():
    market = Market()
    market.look(0, 1, 0)
    market.look(300, 1, 1)
    for hour in range(1, 6):
        market.look(3600 * hour, 1, 0)
        market.look(3600 * hour + 12, 1, 1)
    assert market.stock.boot_seconds == (300.0,)
    market.look(30000, 3, 1)
    assert market.look(30310, 3, 3) is None
    assert market.stock.boot_seconds == (300.0, 310.0)


def test_while_a_lost_node_is_missing_nobody_knows_which_one_came():
    market = Market()
    market.look(0, 2, 0)
    market.look(300, 2, 2)
    market.look(1000, 2, 1)
    market.look(1005, 3, 1)
    market.look(1012, 3, 2)
    assert market.stock.boot_seconds == (300.0,)


def test_patience_is_never_short_and_grows_each_time_that_no_node_came():
    market = Market()
    market.look(0, 1, 0)
    market.look(10, 1, 1)
    assert patience_seconds(market.stock) == LEAST_PATIENCE_SECONDS == 120
    now, waited = 1000, []
    for _ in range(3):
        market.look(now, 2, 1)
        patience = patience_seconds(market.stock)
        assert market.look(now + patience - 1, 2, 1) == market.stock.cap
        cap = market.look(now + patience, 2, 1)
        assert (cap.reason, cap.since) == ("NotComing", at(now + patience))
        waited.append(patience)
        market.look(now + patience + 1, 1, 1)
        now += patience + cap.back_off_seconds
        assert market.look(now, 1, 1).probing
        now += 1
    assert waited == [120, 420, 720]
    market.look(now, 2, 1)
    assert market.look(now + 800, 2, 2) is None
    assert patience_seconds(market.stock) == 1600, "by the node that came late"


def test_the_time_in_which_nobody_looked_is_no_boot():
    market = Market()
    market.look(0, 1, 0)
    market.look(8 * 3600, 1, 1)
    assert market.stock.boot_seconds == ()


def test_a_node_that_came_very_late_counts_as_the_longest_boot():
    market = Market()
    market.look(0, 1, 0)
    assert market.look(FIRST_PATIENCE_SECONDS, 1, 0).reason == "NotComing"
    market.look(3000, 1, 1)
    assert market.stock.boot_seconds == (LONGEST_BOOT_SECONDS,)


def test_a_node_that_is_lost_starts_the_clock_and_asking_for_more_starts_it_again():
    market = Market()
    market.look(0, 2, 0)
    market.look(10, 2, 2)
    market.look(500, 2, 1)
    assert market.stock.short_since == at(500)
    market.look(510, 3, 1)
    assert market.stock.short_since == at(510)
    market.look(520, 2, 1)
    assert market.stock.short_since == at(510)


def test_nodes_without_gpus_are_named_and_do_not_count():
    market = Market()
    market.look(0, 2, 0)
    cap = market.look(FIRST_PATIENCE_SECONDS, 2, 0, existing=2, blind=("a", "b"))
    assert (cap.nodes, cap.reason) == (0, "NoGPUsVisible")
    assert "a, b" in cap.message
    assert patience_seconds(market.stock) == FIRST_PATIENCE_SECONDS, "they are paid: the next are not waited for longer"


def test_a_loss_that_is_not_replaced_lowers_a_cap_that_holds():
    market = Market()
    market.look(0, 3, 2)
    market.look(2, 3, 2, refusal=refused(1))
    before = market.look(3, 2, 2)
    assert before.nodes == 2
    cap = market.look(60, 2, 1, refusal=refused(59))
    assert (cap.nodes, cap.until) == (1, before.until)


def test_who_comes_late_raises_a_cap_that_holds():
    market = Market()
    market.look(0, 3, 1)
    market.look(2, 3, 1, refusal=refused(1))
    assert market.look(3, 2, 2).nodes == 2


LOOKS = st.lists(
    st.tuples(
        st.integers(1, 900), st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.booleans(), st.booleans()
    ),
    max_size=30,
)


@given(LOOKS)
def test_whatever_happens_a_cap_is_no_less_than_what_is_there_and_ends(looks):
    market, now = Market(), 0
    for pause, asked, came, booting, told, may_probe in looks:
        now += pause
        refusal = refused(now) if told else None
        cap = market.look(now, asked, came, existing=came + booting, refusal=refusal, may_probe=may_probe)
        if cap is not None:
            assert cap.nodes >= came
            assert 300 <= cap.back_off_seconds <= 3600
            assert cap.probing or due_in_seconds(market.stock, at(now)) is not None or not may_probe


def test_nodes_that_are_not_sold_now_are_not_asked_for_and_nothing_is_learned_of_them_once_they_are():
    market = Market()
    assert market.look(0, 0, 0, offered=True) is None
    cap = market.look(10, 0, 0, offered=False)
    assert (cap.nodes, cap.reason) == (0, "NotOffered")
    assert market.look(20, 0, 0, offered=False) == cap, "the same word is written down once"
    assert market.look(40, 0, 0, offered=True) is None


def test_a_pool_whose_nodes_are_not_sold_keeps_those_that_it_has():
    cap = Market().look(0, 3, 1, existing=2, offered=False)
    assert cap.nodes == 2


def test_nodes_that_are_not_sold_for_long_are_not_probed_and_their_time_does_not_double():
    market = Market()
    for after in (0, 300, 600):
        cap = market.look(after, 0, 0, offered=False)
        assert not cap.probing
        assert (cap.since, seconds_between(cap.since, cap.until)) == (at(after), 300)


def test_where_nobody_says_any_more_what_is_sold_the_cap_ends_by_time():
    market = Market()
    market.look(0, 0, 0, offered=False)
    assert market.look(299, 0, 0).reason == "NotOffered"
    assert market.look(300, 0, 0).probing


def test_what_was_refused_stays_capped_though_it_is_said_to_be_sold():
    market = Market()
    market.look(0, 2, 0, offered=True)
    cap = market.look(2, 2, 0, refusal=refused(1), offered=True)
    assert market.look(3, 0, 0, offered=True) == cap
