"""The attention that runs while a probe listens: the model's own result, bounded in memory.

A layer without window, sinks or native selection takes torch's fast path with no mask at all. The
others go over the queries in chunks, so that no [query, key] mask or weight matrix of the whole
sequence exists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from indexer_probes.errors import ProbeError
from indexer_probes.families import AttentionCall
from indexer_probes.families.base import Attention, own
from indexer_probes.few_keys import attend_gathered, worth_gathering
from indexer_probes.records import CHUNK_BYTES, MaskRule, Witness


def attend(call: AttentionCall, rule: MaskRule) -> Tensor:
    """The attention output [1, query, head, value_dim] of one call under its mask rule."""
    if _is_plain(call, rule):
        return _sdpa(call, slice(None), slice(None), None)
    if call.entries:
        rule = replace(rule, window=None)  # the entries lie behind every key: no span leaves them
    part = _sdpa if rule.sinks is None else _eager_output  # sdpa knows no sinks
    outputs = []
    for rows, positions in _chunks(call, rule):
        keys = slice(None) if call.entries else _span(positions, rule)
        outputs.append(part(call, rows, keys, allowed(call, rule, positions, keys)))
    return torch.cat(outputs, dim=1)


def attend_selected(call: AttentionCall, rule: MaskRule, support: Tensor, start: int) -> Tensor:
    """The output [1, query, head, value_dim] when the queries from row `start` on attend only to
    their support, and the earlier ones to all that the rule shows; a native selection is ignored.

    support: int64 [set, query from start, k], -1 anywhere marks an empty place; sets divide the
             query heads evenly and serve neighbouring heads. A query whose support holds no visible
             key attends to nothing: its output is zero.
    A support that holds every visible key of every query is the dense attention, to the bit.
    """
    dense = call.dense
    tail = replace(dense, queries=call.queries[:, :, start:])
    if worth_gathering(tail, rule, support.shape[-1]) and _lacks(tail, rule, support.shape[-1]):
        return _after(dense, rule, attend_gathered(tail, rule, support), start)
    part = _sdpa if rule.sinks is None else _eager_output
    outputs, complete = [], True
    for rows, positions in _chunks(tail, rule):
        keys = _span(positions, rule)
        visible = rule.visible(positions - keys.start, keys.stop - keys.start)
        seen = visible & _members(support[:, rows], call.length)[..., keys]
        complete &= bool((seen == visible).all())
        seen = seen.repeat_interleave(call.queries.shape[1] // len(support), dim=0)
        nothing = ~seen.any(-1)  # (head, row)
        output = part(tail, rows, keys, seen)
        outputs.append(output.masked_fill(nothing.mT[None, :, :, None], 0))
    if complete:
        return attend(dense, rule)
    return _after(dense, rule, torch.cat(outputs, dim=1), start)


def _lacks(call: AttentionCall, rule: MaskRule, picks: int) -> bool:
    """Whether so many picks must leave out keys that the last query sees."""
    last = call.first + call.rows
    return picks < (last if rule.window is None else min(last, rule.window))


def _after(dense: AttentionCall, rule: MaskRule, selected: Tensor, start: int) -> Tensor:
    """The selected rows behind the dense ones before row `start`."""
    return selected if start == 0 else torch.cat([attend(dense, rule)[:, :start], selected], dim=1)


def _members(support: Tensor, length: int) -> Tensor:
    """bool [set, row, key]: which keys each row's support names."""
    shape = (*support.shape[:-1], length + 1)  # one place more, where the pads go
    places = support.masked_fill(support < 0, length)
    members = torch.zeros(shape, dtype=torch.bool, device=support.device)
    return members.scatter_(-1, places, True)[..., :length]


def witness(call: AttentionCall, rule: MaskRule, positions: Tensor, count: int) -> Witness | None:
    """The model's own eager weights at up to `count` of these positions, spread over them.

    positions: int64 [query], those that the record keeps. None when count or positions are empty.
    """
    if count < 1 or not len(positions):
        return None
    rows = spread(len(positions), count).to(positions.device)
    picked, every_key = positions[rows], slice(0, call.keys.shape[2])
    with torch.no_grad():
        mask = allowed(call, rule, picked, every_key)
        _, weights = _eager(call, picked - call.first, every_key, mask)
    return Witness(rows, own(weights[0].float()))


def allowed(call: AttentionCall, rule: MaskRule, positions: Tensor, keys: slice) -> Tensor:
    """bool [position, key of the slice], or [head, position, key] where heads differ: what these
    queries attend to, selection included."""
    if call.kept is not None:
        return call.kept[0, positions - call.first][:, keys]
    seen = rule.visible(positions - keys.start, keys.stop - keys.start)
    if call.indices is None:
        return seen
    selected = _tokens(call, call.indices[:, positions - call.first].long())
    picked = _members(selected, call.length)[..., keys]
    if len(picked) == 1:
        return seen & picked[0]
    return seen & picked.repeat_interleave(call.queries.shape[1] // len(picked), dim=0)


def _tokens(call: AttentionCall, indices: Tensor) -> Tensor:
    """int64 [set, position, token]: the tokens that indices [set, position, k] stand for."""
    if call.width == 1:
        return indices
    inside = torch.arange(call.width, device=indices.device)
    tokens = indices[..., None] * call.width + inside
    unused = (indices < 0)[..., None] | (tokens >= call.length)  # the last block may be short
    return tokens.masked_fill(unused, -1).flatten(-2)


def spread(total: int, count: int) -> Tensor:
    """int64 [min(total, count)]: that many of 0..total-1, first and last among them."""
    return torch.linspace(0, total - 1, min(total, count)).round().long()


def eager_function(attention: Attention) -> Callable[..., tuple[Tensor, Tensor]]:
    """The eager attention of the module's own modeling file. Raises ProbeError without one."""
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    if eager is None:
        raise ProbeError(
            f"{type(attention).__name__} does not go through transformers' attention interface, so "
            "its queries and keys cannot be read; use the model code that ships with transformers"
        )
    return eager


def _is_plain(call: AttentionCall, rule: MaskRule) -> bool:
    everything_seen = rule.window is None or call.length <= rule.window
    aligned = call.first == 0 or call.rows == 1  # else is_causal would align the wrong corner
    dense = call.indices is None and call.kept is None
    return dense and rule.sinks is None and everything_seen and aligned


def _chunks(call: AttentionCall, rule: MaskRule) -> Iterator[tuple[slice, Tensor]]:
    """Row slices and their positions, such that a float32 [head, row, key] block stays small."""
    span = call.length if rule.window is None else min(call.length, 2 * rule.window)
    step = max(16, CHUNK_BYTES // (4 * call.queries.shape[1] * span))
    if rule.window is not None:
        step = min(step, max(16, rule.window))  # a longer chunk would only widen the span
    for start in range(0, call.rows, step):
        stop = min(start + step, call.rows)
        device = call.queries.device
        yield slice(start, stop), torch.arange(start, stop, device=device) + call.first


def _span(positions: Tensor, rule: MaskRule) -> slice:
    """The keys that any of these consecutive positions may see."""
    first, last = int(positions[0]), int(positions[-1])
    return slice(0 if rule.window is None else max(0, first - rule.window + 1), last + 1)


def _sdpa(call: AttentionCall, rows: slice, keys: slice, mask: Tensor | None) -> Tensor:
    output: Tensor
    output, _ = sdpa_attention_forward(
        call.attention,
        call.queries[:, :, rows],
        call.keys[:, :, keys],
        call.values[:, :, keys],
        None if mask is None else _four_axes(mask),
        scaling=call.scale,
    )
    return output


def _eager_output(call: AttentionCall, rows: slice, keys: slice, mask: Tensor) -> Tensor:
    return _eager(call, rows, keys, mask)[0]


def _eager(
    call: AttentionCall, rows: slice | Tensor, keys: slice, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [1, row, head, value_dim] and weights [1, head, row, key] of the model's own code."""
    lowest = torch.finfo(call.queries.dtype).min
    bias = torch.zeros_like(mask, dtype=call.queries.dtype).masked_fill_(~mask, lowest)
    return eager_function(call.attention)(
        call.attention,
        call.queries[:, :, rows],
        call.keys[:, :, keys],
        call.values[:, :, keys],
        _four_axes(bias),
        scaling=call.scale,
        dropout=0.0,
        **call.extra,
    )


def _four_axes(mask: Tensor) -> Tensor:
    """[1, head or 1, row, key] of a mask for all heads or one a head."""
    return mask[None] if mask.ndim == 3 else mask[None, None]
