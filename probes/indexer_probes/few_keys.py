"""Attention over a few picked keys, gathered: what it costs follows the keys picked, not all keys.

A masked attention multiplies every key and throws most products away. Where a query keeps a small
share of its keys, fetching those alone is cheaper, even on a CPU, and a decode step that selects
reads a fraction of its cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_probes.families import AttentionCall
from indexer_probes.records import CUDA_CHUNK_BYTES, MaskRule

CACHE_BYTES = (
    1 << 20
)  # of keys fetched at a time; what leaves a CPU's cache takes four times as long
SHARE = 8  # gather where a query picks at most one key in so many


def worth_gathering(call: AttentionCall, rule: MaskRule, picks: int) -> bool:
    """Whether fetching `picks` keys a query beats masking all; sinks need the eager function."""
    return rule.sinks is None and picks * SHARE <= call.length


def attend_gathered(call: AttentionCall, rule: MaskRule, support: Tensor) -> Tensor:
    """The output [1, query, head, value_dim] of queries that attend to their support alone.

    support: int64 [set, query, k], -1 anywhere marks an empty place, as does a key that the rule
             hides or that stands in the row already. A query without any key gets zeros.
    Products and sums are float32; the output has the values' dtype.
    """
    places = _own_places(support, call, rule)
    room = CUDA_CHUNK_BYTES if places.is_cuda else CACHE_BYTES
    wide = 4 * call.queries.shape[1] * places.shape[-1] * call.keys.shape[-1]
    step = max(1, room // max(wide, 1))
    parts = [
        _rows(call, places[:, start : start + step], start) for start in range(0, call.rows, step)
    ]
    return torch.cat(parts, dim=1)


def _own_places(support: Tensor, call: AttentionCall, rule: MaskRule) -> Tensor:
    """The support with hidden keys and repeated ones at -1."""
    positions = torch.arange(call.first, call.first + call.rows, device=support.device)[:, None]
    distance = positions - support  # (set, query, k)
    hidden = (support < 0) | (distance < 0)
    if rule.window is not None:
        hidden |= distance >= rule.window
    places = support.masked_fill(hidden, -1).sort(dim=-1).values  # near keys lie near in memory
    again = places[..., 1:] == places[..., :-1]
    return places.masked_fill_(torch.nn.functional.pad(again, (1, 0)), -1)


def _rows(call: AttentionCall, places: Tensor, start: int) -> Tensor:
    """The output [1, row, head, value_dim] of the rows that these places belong to."""
    heads, rows = call.queries.shape[1], places.shape[1]
    places = places.repeat_interleave(heads // len(places), dim=0)  # (head, row, k)
    queries = call.queries[0, :, start : start + rows, None].float()  # (head, row, 1, dim)
    keys = _picked(call.keys[0], places).float()  # (head, row, k, dim)
    logits = (queries @ keys.mT).squeeze(2) * call.scale
    weights = logits.masked_fill_(places < 0, -torch.inf).softmax(-1).nan_to_num_(nan=0.0)
    values = _picked(call.values[0], places).float()
    output = (weights[:, :, None] @ values).squeeze(2)  # (head, row, value_dim)
    return output.transpose(0, 1)[None].to(call.values.dtype)


def _picked(keys: Tensor, places: Tensor) -> Tensor:
    """[head, row, k, dim] of keys [kv_head, key, dim]; an empty place gets the first key."""
    kv_heads, length, dim = keys.shape
    own = torch.arange(len(places), device=places.device) // (len(places) // kv_heads)
    flat = places.clamp(min=0) + own[:, None, None] * length
    return keys.reshape(-1, dim).index_select(0, flat.flatten()).view(*places.shape, dim)
