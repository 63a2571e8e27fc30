"""Units by hand: seven tokens in pools or blocks of three, or in overlapping entries of two."""

from __future__ import annotations

import torch

from indexer_probes import units
from indexer_probes.records import Entries, IndexerRecord, LayerRecord, Layout, MaskRule, PlainKeys

INF = float("inf")


def indexer(layout: Layout, spans: torch.Tensor, **parts: torch.Tensor) -> IndexerRecord:
    made = {
        "queries": torch.tensor([[[1.0], [1.0], [1.0]]]),  # one head, three rows
        "keys": torch.tensor([[1.0], [-2.0]]),
        "weights": torch.ones(3, 1),
        "native": torch.tensor([[[-1, -1], [0, -1], [0, 1]]]),
    } | parts
    return IndexerRecord(scale=1.0, activation="none", spans=spans, units_of=layout, **made)


POSITIONS = torch.tensor([1, 3, 6])


def test_spans() -> None:
    assert units.tiled(7, 3, whole=True).tolist() == [[0, 3], [3, 6]]
    assert units.tiled(7, 3, whole=False).tolist() == [[0, 3], [3, 6], [6, 7]]
    assert units.overlapping(3, 2).tolist() == [[0, 2], [0, 4], [2, 6]]


def test_tokens_of_units_and_units_of_tokens() -> None:
    assert units.members(units.tiled(7, 3, whole=False)).tolist() == [
        [0, 1, 2],
        [3, 4, 5],
        [6, -1, -1],
    ]
    assert units.owners(units.tiled(7, 3, whole=True), 7).tolist() == [[0]] * 3 + [[1]] * 3 + [[-1]]
    assert units.owners(units.overlapping(3, 2), 7).tolist() == [
        [0, 1], [0, 1], [1, 2], [1, 2], [2, -1], [2, -1], [-1, -1],
    ]  # fmt: skip


def test_a_whole_unit_is_seen_once_its_last_token_is() -> None:
    pools = indexer(Layout(whole=True), units.tiled(7, 3, whole=True))
    assert units.counts(pools, POSITIONS).tolist() == [0, 1, 2]
    assert units.ranked(pools, slice(None), POSITIONS).tolist() == [
        [[-INF, -INF], [1.0, -INF], [1.0, -2.0]]
    ]


def test_the_tail_is_what_is_seen_of_the_started_unit() -> None:
    pools = indexer(Layout(tail=True), units.tiled(7, 3, whole=True))
    tails = units.tails(pools, POSITIONS, 7)
    assert [row.nonzero().flatten().tolist() for row in tails] == [[0, 1], [3], [6]]
    assert not units.tails(indexer(Layout(), pools.spans), POSITIONS, 7).any()


def test_a_block_scores_its_best_visible_token_and_the_local_one_is_forced() -> None:
    keys = torch.tensor([[0.0], [5.0], [1.0], [2.0], [9.0], [3.0], [-1.0]])
    layout = Layout(whole=False, forced=1, per_head=True, pooled=True)
    spans = units.tiled(7, 3, whole=False)
    blocks = indexer(layout, spans, keys=keys)
    assert units.counts(blocks, POSITIONS).tolist() == [1, 2, 3]
    assert units.ranked(blocks, slice(None), POSITIONS).tolist() == [
        [[INF, -INF, -INF], [5.0, INF, -INF], [5.0, 9.0, INF]]
    ]
    free = indexer(Layout(whole=False, per_head=True, pooled=True), spans, keys=keys)
    assert units.ranked(free, slice(1, 2), POSITIONS[1:2]).tolist() == [[[5.0, 2.0, -INF]]]


def test_units_expand_to_their_tokens() -> None:
    spans = units.tiled(7, 3, whole=False)
    marks = units.expand(torch.tensor([[[2, 0], [-1, 1]]]), spans, 7)
    assert [row.nonzero().flatten().tolist() for row in marks[0]] == [[0, 1, 2, 6], [3, 4, 5]]


def entries_record() -> LayerRecord:
    """Seven tokens in a window of two, three entries of two new tokens each, overlapping."""
    torch.manual_seed(0)
    return LayerRecord(
        layer=0,
        queries=torch.randn(2, 3, 4),
        keys=PlainKeys(torch.randn(1, 7, 4)),
        positions=POSITIONS,
        scale=0.5,
        mask=MaskRule(window=2),
        entries=Entries(torch.randn(1, 3, 4), units.overlapping(3, 2)),
    )


def test_entries_are_seen_with_their_tokens_and_spread_over_them() -> None:
    record = entries_record()
    made = record.entries
    assert made is not None
    assert made.visible(POSITIONS).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    logits = torch.cat([record.key_logits(slice(None)), record.entry_logits(slice(None))], dim=-1)
    probs = logits.softmax(-1)
    expected = probs[..., :7].clone()
    for entry, (first, end) in enumerate(made.entry_spans.tolist()):
        expected[..., first:end] += probs[..., 7 + entry, None] / (end - first)
    torch.testing.assert_close(record.logits(slice(None)).softmax(-1), expected)
    assert record.count(slice(None)).tolist() == [2, 4, 7]
    assert torch.equal(record.visible(slice(None)), expected[0] > 0)


def test_what_is_attended_to_beside_entries() -> None:
    record = entries_record()
    seen = units.attended(record, slice(None))
    assert [row.nonzero().flatten().tolist() for row in seen[0]] == [
        [0, 1, 7], [2, 3, 7, 8], [5, 6, 7, 8, 9],
    ]  # fmt: skip
