"""Helix's program on clusters whose answer is plain, and its own four A100 where a copy of its data is at hand."""

import os
from pathlib import Path

import pytest

from papers.helix import PRINTED, SINK, SOURCE, Cluster, a100_cluster, node_throughput, place

WIDE = 1e6


def cluster(rates, capacity=WIDE):
    """Nodes that all see each other."""
    host = {arc: WIDE for node in rates for arc in ((SOURCE, node), (node, SINK))}
    return Cluster(rates, {**host, **{(u, v): capacity for u in rates for v in rates if u != v}})


def test_a_model_that_one_node_holds_goes_to_every_node_by_itself():
    found = place(cluster({"a": [40.0, 20.0], "b": [20.0, 10.0]}), 2)
    assert found.tokens_per_second == pytest.approx(30.0)
    assert found.runs == {"a": (0, 2), "b": (0, 2)}


def test_nodes_that_hold_a_part_stand_one_behind_the_other_and_the_slowest_limits():
    found = place(cluster({"a": [40.0, 20.0, 12.0], "b": [30.0]}), 4)
    assert found.tokens_per_second == pytest.approx(12.0)
    assert sorted(found.runs.values()) in ([(0, 1), (1, 4)], [(0, 3), (3, 4)])


def test_two_slow_nodes_share_a_part_behind_a_fast_one():
    found = place(cluster({"a": [30.0], "b": [10.0], "c": [15.0]}), 2)
    assert found.tokens_per_second == pytest.approx(25.0)
    assert found.runs["b"] == found.runs["c"] != found.runs["a"]


def test_a_narrow_link_limits():
    found = place(cluster({"a": [40.0], "b": [30.0]}, capacity=7.0), 2)
    assert found.tokens_per_second == pytest.approx(7.0)


def test_no_placement_that_reaches_the_end_passes_nothing():
    assert place(cluster({"a": [40.0], "b": [30.0]}), 3).tokens_per_second == pytest.approx(0.0)


def test_a_node_by_hand():
    """15 layers: int(0.3 x 16 x 3021) / 990 x 15/60 = 3.66 requests, of which 1 in 240 is a prompt; scaled to one prompt."""
    scale = 240 / (14500 / 990 / 4)
    prompt_ms = {0: 0.0, 1000: 4.0}
    decode_ms = {0: 0.0, 4: 1.0}
    took = 15 * (int(11 * scale) * 4 / 1000 + scale * 1.0) / 1000
    assert node_throughput(15, prompt_ms, decode_ms) == pytest.approx(scale * 15 / took)


@pytest.mark.skipif("HELIX_HOME" not in os.environ, reason="HELIX_HOME is no copy of Thesys-lab/Helix-ASPLOS25")
def test_its_four_a100():
    found = place(a100_cluster(Path(os.environ["HELIX_HOME"])), 60)
    assert found.tokens_per_second == pytest.approx(PRINTED, rel=1e-6)
    assert sorted(found.runs.values()) == [(0, 15), (15, 30), (30, 45), (45, 60)]
