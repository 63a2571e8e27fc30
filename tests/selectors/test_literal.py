"""Selectors against slow literal readings of their definitions, key by key.

Records have an odd number of keys, a short last block, two query heads a key head, and budgets over
what a query sees. Whole numbers make equal scores common and sums exact.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors import selector
from indexer_lab.unit_level import unit_record
from indexer_probes.records import (
    IndexerRecord,
    LatentKeys,
    LayerRecord,
    Layout,
    MaskRule,
    PlainKeys,
)

KEYS, DIM, HEADS = 37, 6, 4
POSITIONS = torch.tensor([0, 4, 11, 15, 16, 28, 36])
BUDGETS = (1, 5, 12, KEYS + 3)


def draw(*shape, whole=False, seed=0):
    made = torch.Generator().manual_seed(seed)
    if whole:
        return torch.randint(-2, 3, shape, generator=made).float()
    return torch.randn(*shape, generator=made)


def plain(whole, window):
    queries = draw(HEADS, len(POSITIONS), DIM, whole=whole, seed=1)
    keys = PlainKeys(draw(2, KEYS, DIM, whole=whole, seed=2))
    return LayerRecord(3, queries, keys, POSITIONS, 0.5, MaskRule(window))


def latent(whole, window):
    queries = draw(HEADS, len(POSITIONS), DIM, whole=whole, seed=3)
    keys = LatentKeys(
        draw(KEYS, 5, whole=whole, seed=4),
        draw(KEYS, 2, whole=whole, seed=5),
        draw(HEADS, 4, 5, whole=whole, seed=6),
    )
    indexer = IndexerRecord(
        queries=draw(5, len(POSITIONS), 8, whole=whole, seed=7),
        keys=draw(KEYS, 8, whole=whole, seed=8),
        weights=draw(len(POSITIONS), 5, whole=whole, seed=9),
        scale=1.0,
        native=torch.full((1, len(POSITIONS), 3), -1),
    )
    return LayerRecord(3, queries, keys, POSITIONS, 0.5, MaskRule(window), indexer)


both = pytest.mark.parametrize("build", [plain, latent])
windows = pytest.mark.parametrize("window", [None, 13])
budgets = pytest.mark.parametrize("budget", BUDGETS)


def picks(spelling, record, budget):
    """One list of positions a set and row, without the pads."""
    support = selector(spelling).fit(record).top(budget)
    assert support.shape[-1] == budget
    return [[[at for at in row if at >= 0] for row in one] for one in support.tolist()]


def by_hand(record, choose):
    """The same from `choose(query, keys, visible positions)`, head by head and row by row."""
    queries = record.queries.double().numpy()
    keys = record.keys.keys().double().repeat_interleave(record.group, dim=0).numpy()
    seen = record.visible(slice(None)).numpy()
    return [
        [
            choose(queries[head, row], keys[head], np.flatnonzero(seen[row]))
            for row in range(record.rows)
        ]
        for head in range(record.heads)
    ]


def best_first(scores):
    """Keys of a dictionary by falling score, the lower key first among equals."""
    return sorted(scores, key=lambda at: (-scores[at], at))


def blocks_of(visible, size):
    """Block -> its visible positions and all of its keys up to the query, the last visible one."""
    query = visible[-1]
    found = {}
    for at in visible:
        found.setdefault(at // size, []).append(at)
    return {
        block: (inside, [at for at in range(block * size, block * size + size) if at <= query])
        for block, inside in found.items()
    }


def bound(query, keys):
    low, high = keys.min(axis=0), keys.max(axis=0)
    return sum(max(q * a, q * b) for q, a, b in zip(query, low, high, strict=True))


def average(query, keys):
    return float(query @ keys.mean(axis=0))


def in_blocks(score, size, budget, local=False):
    def choose(query, keys, visible):
        blocks = blocks_of(visible, size)
        scores = {block: score(query, keys[held]) for block, (_, held) in blocks.items()}
        if local:
            scores[visible[-1] // size] = np.inf
        return [at for block in best_first(scores) for at in blocks[block][0]][:budget]

    return choose


@both
@windows
@budgets
@pytest.mark.parametrize("size", [1, 4, 8, 50])
def test_quest_takes_whole_pages_by_their_bound(build, window, budget, size):
    record = build(True, window)
    expected = by_hand(record, in_blocks(bound, size, budget))
    assert picks(f"quest:page={size}", record, budget) == expected


@both
@windows
@budgets
def test_block_mean_takes_whole_blocks_by_their_mean_key(build, window, budget):
    record = build(False, window)
    expected = by_hand(record, in_blocks(average, 8, budget))
    assert picks("block_mean:block=8", record, budget) == expected


@windows
@budgets
def test_a_local_block_comes_first(window, budget):
    record = plain(True, window)
    expected = by_hand(record, in_blocks(bound, 8, budget, local=True))
    assert picks("quest:page=8,local=true", record, budget) == expected


@both
@windows
@budgets
@pytest.mark.parametrize(("summary", "score"), [("bounds", bound), ("mean", average)])
def test_hierarchical_ranks_tokens_inside_the_blocks_it_opened(
    build, window, budget, summary, score
):
    record = build(False, window)

    def choose(query, keys, visible):
        blocks = blocks_of(visible, 4)
        scores = {block: score(query, keys[held]) for block, (_, held) in blocks.items()}
        opened = []
        for block in best_first(scores):
            if len(opened) >= ceil(1.5 * budget):
                break
            opened += blocks[block][0]
        return best_first({at: float(query @ keys[at]) for at in opened})[:budget]

    spelling = f"hierarchical:block=4,opens=1.5,summary={summary}"
    assert picks(spelling, record, budget) == by_hand(record, choose)


@both
@windows
@budgets
def test_sparq_reads_the_largest_channels_of_each_query(build, window, budget):
    record = build(True, window)

    def choose(query, keys, visible):
        read = best_first(dict(enumerate(np.abs(query))))[:3]
        return best_first({at: float(query[read] @ keys[at, read]) for at in visible})[:budget]

    assert picks("sparq:channels=3", record, budget) == by_hand(record, choose)


@both
@windows
@budgets
def test_loki_ranks_in_the_first_principal_components(build, window, budget):
    record = build(False, window)

    def choose(query, keys, visible):
        basis = np.linalg.svd(keys - keys.mean(axis=0))[2][:2]
        turned = keys @ basis.T
        return best_first({at: float(basis @ query @ turned[at]) for at in visible})[:budget]

    assert picks("loki:rank=2", record, budget) == by_hand(record, choose)


@both
@windows
@budgets
@pytest.mark.parametrize("by", ["qk", "k", "q"])
def test_double_sparsity_reads_the_same_channels_for_every_query(build, window, budget, by):
    record = build(False, window)
    queries, all_keys = record.queries.double().numpy(), record.keys.keys().double().numpy()
    channels = []
    for head in range(HEADS):
        served = head // record.group
        own = range(served * record.group, (served + 1) * record.group)
        pairs = {
            "qk": lambda key, q: abs(q * key),
            "k": lambda key, q: abs(key),
            "q": lambda key, q: abs(q),
        }[by]
        size = {
            channel: sum(
                pairs(key, query)
                for other in own
                for query in queries[other, :, channel]
                for key in all_keys[served, :, channel]
            )
            for channel in range(DIM)
        }
        channels.append(best_first(size)[:3])
    expected = []
    for head, read in enumerate(channels):

        def choose(query, keys, visible, read=read):
            return best_first({at: float(query[read] @ keys[at, read]) for at in visible})[:budget]

        expected.append(by_hand(record, choose)[head])
    assert picks(f"double_sparsity:channels=3,by={by}", record, budget) == expected


@windows
@budgets
@pytest.mark.parametrize("by", ["query", "layer"])
def test_index_heads_sums_over_the_heads_that_reach_furthest(window, budget, by):
    record = latent(False, window)
    indexer = record.indexer
    queries, keys = indexer.queries.double().numpy(), indexer.keys.double().numpy()
    weights = indexer.weights.double().numpy()
    reach = np.array(
        [
            [abs(weights[row, head]) * np.linalg.norm(queries[head, row]) for head in range(5)]
            for row in range(record.rows)
        ]
    )
    seen = record.visible(slice(None)).numpy()
    expected = []
    for row in range(record.rows):
        size = reach[row] if by == "query" else reach.mean(axis=0)
        kept = best_first(dict(enumerate(size)))[:2]
        scores = {
            at: sum(weights[row, h] * max(0.0, float(queries[h, row] @ keys[at])) for h in kept)
            for at in np.flatnonzero(seen[row])
        }
        expected.append(best_first(scores)[:budget])
    assert picks(f"index_heads:heads=2,by={by}", record, budget) == [expected]


def test_every_index_head_is_the_whole_indexer():
    record = latent(False, None)
    whole = selector("lightning").fit(record).top(9)
    for by in ("query", "layer", "random"):
        assert torch.equal(selector(f"index_heads:heads=5,by={by}").fit(record).top(9), whole)


def test_every_index_head_in_fp8_is_the_deployed_indexer():
    record = latent(False, None)
    whole = selector("lightning:precision=fp8").fit(record).top(9)
    spelled = selector("index_heads:heads=5,precision=fp8")
    assert torch.equal(spelled.fit(record).top(9), whole)
    assert spelled.cost(record, 9) == selector("lightning:precision=fp8").cost(record, 9)


def test_random_index_heads_are_the_seeds():
    record = latent(False, None)
    once, again, other = (
        selector(f"index_heads:heads=2,by=random,seed={seed}").fit(record).top(9)
        for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_what_reads_everything_is_exact():
    for record in (plain(False, None), plain(False, 13), latent(False, None)):
        exact = selector("exact").fit(record).top(9)
        for spelling in (
            *("quest:page=1", "block_mean:block=1", "hierarchical:opens=99", "loki:rank=6"),
            *("sparq:channels=6", "double_sparsity:channels=6"),
        ):
            assert torch.equal(selector(spelling).fit(record).top(9), exact), spelling


def test_no_block_is_scored_by_keys_after_the_query():
    record = plain(False, None)
    later = record.keys.plain_keys.clone()
    later[:, 17:] = 99.0
    changed = replace(record, keys=PlainKeys(later))
    rows = POSITIONS <= 16
    for spelling in ("quest:page=8", "block_mean:block=8", "hierarchical:block=8"):
        before, after = (selector(spelling).fit(each).top(7) for each in (record, changed))
        assert torch.equal(before[:, rows], after[:, rows])


def of_units(layer=3):
    """A record whose indexer selects units of four tokens; the tail of a unit is always seen."""
    spans = torch.stack([torch.arange(0, 36, 4), torch.arange(4, 40, 4)], dim=-1)
    positions = torch.tensor([11, 15, 16, 28, 36])
    indexer = IndexerRecord(
        queries=draw(5, 5, 8, seed=layer),
        keys=draw(9, 8, seed=layer + 1),
        weights=draw(5, 5, seed=layer + 2),
        scale=1.0,
        native=torch.full((1, 5, 3), -1),
        spans=spans,
        units_of=Layout(tail=True),
    )
    queries, keys = draw(HEADS, 5, DIM, seed=layer + 3), draw(2, KEYS, DIM, seed=layer + 4)
    return LayerRecord(layer, queries, PlainKeys(keys), positions, 0.5, indexer=indexer,
                       layers=of_units)  # fmt: skip


@pytest.mark.parametrize("level", [lambda record: record, unit_record], ids=["token", "unit"])
def test_an_indexer_of_units_keeps_its_heads_and_hands_on_its_units(level):
    record = level(of_units())
    whole = selector("lightning").fit(record).top(6)
    assert torch.equal(selector("index_heads:heads=5").fit(record).top(6), whole)
    few = selector("index_heads:heads=1").fit(record).top(6)
    assert not torch.equal(few, whole)
    assert (few >= 0).sum() == (whole >= 0).sum()
    taken = selector("reuse:layer=1,of=lightning").fit(record).top(6)
    assert torch.equal(taken, selector("lightning").fit(level(of_units(1))).top(6))


def test_index_heads_that_select_for_themselves_are_refused():
    record = of_units()
    alone = replace(
        record.indexer, units_of=Layout(per_head=True), native=torch.full((5, 5, 3), -1)
    )
    with pytest.raises(InputError, match="each of the 5 index heads of layer 3 selects for itself"):
        selector("index_heads:heads=1").fit(replace(record, indexer=alone))
