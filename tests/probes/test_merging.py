"""Attention in parts is the attention of the whole."""

from __future__ import annotations

import torch

from indexer_probes.families import AttentionCall
from indexer_probes.merging import Part, attend_part, merged
from indexer_probes.records import MaskRule

KEYS, ROWS = 11, 3


def call(keys=KEYS):
    draw = torch.Generator().manual_seed(1)
    return AttentionCall(
        attention=None,
        queries=torch.randn(1, 4, ROWS, 6, generator=draw),
        keys=torch.randn(1, 2, keys, 6, generator=draw),
        values=torch.randn(1, 2, keys, 5, generator=draw),
        scale=0.4,
    )


def literal(given, rule, allowed):
    """Softmax over the allowed keys [head][row], one query at a time."""
    output = torch.zeros(4, ROWS, 5)
    visible = rule.visible(torch.arange(KEYS - ROWS, KEYS), KEYS)
    for head in range(4):
        for row in range(ROWS):
            keys = [key for key in sorted(allowed[head][row]) if visible[row, key]]
            if keys:
                logits = given.keys[0, head // 2, keys] @ given.queries[0, head, row] * given.scale
                output[head, row] = logits.softmax(0) @ given.values[0, head // 2, keys]
    return output


def picked(seed, k):
    """Distinct keys [head, row, k], none where a draw is even."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack(
        [torch.stack([torch.randperm(KEYS, generator=draw) for _ in range(ROWS)]) for _ in range(4)]
    )
    return order[..., :k], order[..., k : k + 4]


def sets(support):
    return [[{at for at in row.tolist() if at >= 0} for row in head] for head in support]


def test_a_part_is_the_softmax_over_its_keys():
    given, (support, _) = call(), picked(2, 4)
    support[0, 0] = -1
    support[1, 2, 1:] = -1
    for rule in (MaskRule(), MaskRule(window=5)):
        part = attend_part(given, rule, support)
        assert torch.allclose(part.output, literal(given, rule, sets(support)), atol=1e-6)
        assert part.output[0, 0].abs().max() == 0
        assert part.total[0, 0] == -torch.inf


def test_parts_merge_to_their_union():
    given, (one, other) = call(), picked(3, 5)
    other[2, 1] = -1
    one[3, 0] = -1
    both = torch.cat([one, other], dim=-1)
    whole = attend_part(given, MaskRule(), both)
    joined = merged(attend_part(given, MaskRule(), one), attend_part(given, MaskRule(), other))
    assert torch.allclose(joined.output, whole.output, atol=1e-6)
    assert torch.allclose(joined.total, whole.total, atol=1e-6)


def test_two_empty_parts_are_empty():
    empty = Part(torch.zeros(1, 1, 2), torch.full((1, 1), -torch.inf))
    joined = merged(empty, empty)
    assert joined.output.tolist() == [[[0.0, 0.0]]]
    assert joined.total.item() == -torch.inf
