"""Gathered attention against a softmax over a written-out mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from indexer_probes import few_keys
from indexer_probes.attention import attend_selected
from indexer_probes.families import AttentionCall
from indexer_probes.few_keys import attend_gathered, worth_gathering
from indexer_probes.records import MaskRule

HEADS, KV_HEADS, ROWS, KEYS = 4, 2, 9, 50


def call(dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    queries = torch.randn(1, HEADS, ROWS, 8, generator=draw)
    keys = torch.randn(1, KV_HEADS, KEYS, 8, generator=draw)
    values = torch.randn(1, KV_HEADS, KEYS, 6, generator=draw)
    operands = (each.to(dtype) for each in (queries, keys, values))
    return AttentionCall(nn.Identity(), *operands, 0.3, None, {})


def literal(given, rule, support):
    """Query by query, head by head, over the distinct keys that are named and visible."""
    output = torch.zeros(1, ROWS, HEADS, 6)
    for row in range(ROWS):
        seen = rule.visible(torch.tensor([KEYS - ROWS + row]), KEYS)[0]
        for head in range(HEADS):
            named = support[head * len(support) // HEADS, row].tolist()
            kept = sorted({key for key in named if key >= 0 and seen[key]})
            if kept:
                own = head * KV_HEADS // HEADS
                logits = given.keys[0, own, kept].float() @ given.queries[0, head, row].float()
                weights = (logits * 0.3).softmax(0)
                output[0, row, head] = weights @ given.values[0, own, kept].float()
    return output


@pytest.mark.parametrize("sets", [1, KV_HEADS, HEADS])
@pytest.mark.parametrize("window", [None, 11])
@pytest.mark.parametrize("room", [1, 1 << 20])
def test_only_distinct_visible_keys_count(sets, window, room, monkeypatch):
    monkeypatch.setattr(few_keys, "CACHE_BYTES", room)
    draw = torch.Generator().manual_seed(2)
    support = torch.randint(-1, KEYS, (sets, ROWS, 6), generator=draw)
    support[:, 3] = -1  # nothing picked
    support[:, 4] = KEYS - 1  # only a key that this row cannot see yet
    support[:, 5, :3] = 40  # one key three times
    rule = MaskRule(window)
    found = attend_gathered(call(), rule, support)
    torch.testing.assert_close(found, literal(call(), rule, support))
    assert not found[0, 3].any()
    torch.testing.assert_close(attend_selected(call(), rule, support, 0), found)


def test_a_low_precision_is_the_outputs_and_not_the_sums():
    draw = torch.Generator().manual_seed(3)
    support = torch.randint(0, KEYS - ROWS, (1, ROWS, 5), generator=draw)
    given = call(torch.bfloat16)
    found = attend_gathered(given, MaskRule(), support)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, literal(given, MaskRule(), support).to(torch.bfloat16))


def test_many_picks_and_sinks_are_left_to_masks():
    assert worth_gathering(call(), MaskRule(), KEYS // 8)
    assert not worth_gathering(call(), MaskRule(), KEYS // 8 + 1)
    assert not worth_gathering(call(), MaskRule(sinks=torch.zeros(HEADS)), 1)
