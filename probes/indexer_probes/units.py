"""Units that span several tokens: which a query sees, and the way from units to tokens and back.

Functions of tensors alone; the records use them, and so do the selectors. A unit u spans the tokens
spans[u, 0] to spans[u, 1] - 1; spans increase, they may overlap and need not cover every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from indexer_probes.records import Entries, IndexerRecord, LayerRecord, MaskRule

HIDDEN = float("-inf")


def tiled(length: int, size: int, whole: bool, device: torch.device | str = "cpu") -> Tensor:
    """int64 [unit, 2]: spans of `size` tokens one after another; the last may be short unless they
    are to be whole."""
    count = length // size if whole else -(-length // size)
    first = torch.arange(count, device=device) * size
    return torch.stack([first, (first + size).clamp(max=length)], dim=-1)


def overlapping(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """int64 [unit, 2]: spans of two windows of `size` tokens, the second one the unit's own."""
    first = torch.arange(count, device=device) * size
    return torch.stack([(first - size).clamp(min=0), first + size], dim=-1)


def members(spans: Tensor) -> Tensor:
    """int64 [unit, width]: the tokens of each unit, -1 where it has fewer than the widest."""
    width = int((spans[:, 1] - spans[:, 0]).max()) if len(spans) else 0
    tokens = spans[:, :1] + torch.arange(width, device=spans.device)
    return tokens.masked_fill(tokens >= spans[:, 1:], -1)


def owners(spans: Tensor, length: int) -> Tensor:
    """int64 [token, owner]: the units that span each token, -1 where it has fewer than the most."""
    tokens = torch.arange(length, device=spans.device)
    first = torch.searchsorted(spans[:, 1].contiguous(), tokens, right=True)  # whose end is beyond
    last = torch.searchsorted(spans[:, 0].contiguous(), tokens, right=True)  # whose start is not
    most = int((last - first).max().clamp(min=0)) if length else 0
    found = first[:, None] + torch.arange(most, device=spans.device)
    return found.masked_fill(found >= last[:, None], -1)


def counts(indexer: IndexerRecord, positions: Tensor) -> Tensor:
    """int64 [query]: how many units each query may select; they are the first ones."""
    if indexer.spans is None or indexer.units_of is None:
        return (positions + 1).clamp(max=indexer.units)
    started, ended = indexer.spans[:, 0], indexer.spans[:, 1] - 1
    edge = (ended if indexer.units_of.whole else started).contiguous()
    return torch.searchsorted(edge, positions.contiguous(), right=True)


def ranked(indexer: IndexerRecord, rows: Tensor | slice, positions: Tensor) -> Tensor:
    """float32 [set, row, unit]: what the model ranks: scores, -inf where a query may not select,
    inf where it must. positions: int64 [row] of these rows."""
    layout, spans = indexer.units_of, indexer.spans
    if layout is None or spans is None:
        return _hide(indexer.scores(rows)[None], positions + 1)
    scores = (
        pooled_scores(indexer, rows, positions) if layout.pooled else indexer.scores(rows)[None]
    )
    scores = _hide(scores, counts(indexer, positions))
    if layout.forced:
        own = torch.searchsorted(spans[:, 0].contiguous(), positions.contiguous(), right=True) - 1
        local = (own[:, None] - torch.arange(layout.forced, device=own.device)).clamp(min=0)
        scores.scatter_(-1, local.expand(len(scores), -1, -1), float("inf"))
    return scores


def pooled_scores(indexer: IndexerRecord, rows: Tensor | slice, positions: Tensor) -> Tensor:
    """float32 [index_head, row, unit]: each head's largest score among a unit's visible tokens."""
    assert indexer.spans is not None
    scores = _hide(indexer.products(rows), positions + 1)
    return pool(scores, indexer.spans, "max")


def pool(values: Tensor, spans: Tensor, how: str) -> Tensor:
    """float32 [..., unit] from [..., token]: the `max` or the `logsumexp` of each unit's tokens."""
    inside = members(spans)
    picked = values[..., inside.clamp(min=0)].masked_fill(inside < 0, HIDDEN)
    return picked.amax(-1) if how == "max" else picked.logsumexp(-1)


def expand(units: Tensor, spans: Tensor, length: int) -> Tensor:
    """bool [set, row, token]: the tokens of selected units, int64 [set, row, k] with -1 pads."""
    marks = torch.zeros(*units.shape[:2], length + 1, dtype=torch.bool, device=units.device)
    tokens = members(spans)[units.clamp(min=0)]  # (set, row, k, width)
    tokens = tokens.masked_fill((tokens < 0) | (units < 0)[..., None], length)
    return marks.scatter_(-1, tokens.flatten(-2), True)[..., :length]


def tails(indexer: IndexerRecord, positions: Tensor, length: int) -> Tensor:
    """bool [row, token]: what is attended to of the unit after the last whole one."""
    tokens = torch.arange(length, device=positions.device)
    seen = tokens <= positions[:, None]
    if indexer.spans is None or indexer.units_of is None or not indexer.units_of.tail:
        return torch.zeros_like(seen)
    last = counts(indexer, positions)
    start = torch.nn.functional.pad(indexer.spans[:, 1], (1, 0))[last]
    return seen & (tokens >= start[:, None])


def attended(record: LayerRecord, rows: Tensor | slice) -> Tensor:
    """bool [set, row, key and entry]: what the model's own attention saw on these rows."""
    positions, indexer = record.positions[rows], record.indexer
    seen = record.mask.visible(positions, record.length)
    if record.entries is not None:
        return _with_entries(record, rows, seen)
    if indexer is None:
        return seen[None]
    native = indexer.native[:, rows]
    if indexer.spans is None:
        return seen & _marks(native, record.length)
    kept = expand(native, indexer.spans, record.length)
    return seen & (kept | tails(indexer, positions, record.length))


def _with_entries(record: LayerRecord, rows: Tensor | slice, seen: Tensor) -> Tensor:
    assert record.entries is not None
    entries = record.entries.visible(record.positions[rows])[None]
    if record.indexer is not None:
        entries = entries & _marks(record.indexer.native[:, rows], record.entries.count)
    return torch.cat([seen.expand(len(entries), -1, -1), entries], dim=-1)


def _marks(places: Tensor, length: int) -> Tensor:
    """bool [set, row, length]: True at these places, int64 [set, row, k] with -1 pads."""
    marks = torch.zeros(*places.shape[:2], length + 1, dtype=torch.bool, device=places.device)
    return marks.scatter_(-1, places.masked_fill(places < 0, length), True)[..., :length]


def seen_tokens(mask: MaskRule, entries: Entries, positions: Tensor, length: int) -> Tensor:
    """bool [query, token]: seen by its own key, or through an entry that was made of it."""
    own = mask.visible(positions, length)
    spanning = owners(entries.entry_spans, length)  # (token, owner)
    seen = entries.visible(positions)[:, spanning.clamp(min=0)] & (spanning >= 0)
    return own | seen.any(-1)


def spread_over_tokens(keys: Tensor, entries: Tensor, made: Entries) -> Tensor:
    """float32 [head, row, token]: logits of tokens, given those of their keys [head, row, token]
    and of the entries [head, row, entry]; an entry's probability goes to its tokens in equal
    shares."""
    size = (made.entry_spans[:, 1] - made.entry_spans[:, 0]).float().log()
    spanning = owners(made.entry_spans, keys.shape[-1])  # (token, owner)
    if not spanning.shape[-1]:
        return keys
    shares = (entries - size)[..., spanning.clamp(min=0)].masked_fill(spanning < 0, HIDDEN)
    return torch.cat([keys[..., None], shares], dim=-1).logsumexp(-1)


def _hide(scores: Tensor, visible: Tensor) -> Tensor:
    """[set, row, n] with -inf from each row's visible count, int64 [row], on."""
    place = torch.arange(scores.shape[-1], device=scores.device)
    return scores.masked_fill(place >= visible[:, None], HIDDEN)
