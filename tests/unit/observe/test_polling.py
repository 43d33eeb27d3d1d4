"""Polling beside the turns: what is due, and what a reading that fails or hangs leaves to the others."""

import logging
import math
import threading

import pytest

from e2e.support.waiting import wait_for
from servingplan.observe import polling
from servingplan.observe.polling import FORGOTTEN_AFTER_SECONDS, PAUSE_AFTER_ERROR_SECONDS, Polling, Watched

PLAN = ("llm", "chat")


def watched(_before=None):
    return Watched(spec=None, asked_at=0.0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(polling, "LOOK_SECONDS", 0.01)


def test_a_plan_is_not_due_again_while_it_is_read_and_forgotten_once_no_turn_asks():
    plans = Polling("test", lambda plan: None)
    state = plans.asked(PLAN, watched)
    assert plans.due(state.asked_at) == [PLAN]
    assert plans.due(state.asked_at + 1) == []
    state.next_poll = state.asked_at + 60
    assert plans.due(state.asked_at + 59) == []
    assert plans.due(state.asked_at + 60) == [PLAN]
    assert plans.due(state.asked_at + FORGOTTEN_AFTER_SECONDS + 1) == []
    assert plans.get(PLAN) is None


def test_a_reading_that_raises_is_logged_and_tried_again_later(caplog):
    def poll(plan):
        raise RuntimeError("broken")

    plans = Polling("test", poll)
    state = plans.asked(PLAN, watched)
    with caplog.at_level(logging.ERROR, logger="servingplan.test"):
        plans.start()
        wait_for("the error was met", lambda: 0 < state.next_poll < math.inf, seconds=60)
    plans.close()
    assert state.next_poll >= state.asked_at + PAUSE_AFTER_ERROR_SECONDS
    assert "llm/chat: the reading failed" in caplog.text


def test_a_namespace_whose_readings_all_hang_does_not_delay_another():
    answers = threading.Event()
    read = set()

    def poll(plan):
        if plan[0] == "slow":
            answers.wait(60)
        read.add(plan)

    plans = Polling("test", poll)
    slow = [("slow", f"{number}") for number in range(2 * polling.POLLS_AT_ONCE)]
    for plan in (*slow, PLAN):
        plans.asked(plan, watched)
    plans.start()
    try:
        wait_for("the other namespace was read", lambda: read == {PLAN}, seconds=60)
        answers.set()
        wait_for("all were read", lambda: read == {PLAN, *slow}, seconds=60)
    finally:
        answers.set()
        plans.close()
