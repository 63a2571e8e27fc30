"""Keys cut into blocks of neighbours, each scored by one product with a summary of its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost, ScoreRanker
from indexer_probes.records import LayerRecord

FORCED = torch.finfo(torch.float32).max  # ranks before every score; infinity would be no number

Summary = Callable[[Tensor, Tensor | None], Tensor]
"""Keys [..., key, dim] of a block, and which of them it holds, bool [..., key] (None for all) ->
[..., width]."""


@dataclass(frozen=True)
class Blocks:
    """A record's keys in blocks of `size` neighbours from position 0 on; the last may be short.

    asks:    float32 [head, query, width], what each query multiplies a summary with.
    summary: of the keys of one block.
    local:   whether a query's own block comes first, whatever its score.

    A query's own block is summarised up to the query, as in a cache that has just taken its key: no
    score depends on a later key. Keys that a window has since hidden stay in their block's summary.
    """

    record: LayerRecord
    size: int
    asks: Tensor
    summary: Summary
    local: bool = False

    @property
    def count(self) -> int:
        return -(-self.record.length // self.size)

    def ranker(self) -> ScoreRanker:
        """Whole blocks by falling score, the lower block first among equals; in a block, keys by
        position, so that a budget which ends inside a block takes its first visible keys."""
        record = self.record

        def score(rows: slice) -> Tensor:
            spread = self.scores(rows).repeat_interleave(self.size, dim=-1)
            return spread[..., : record.length]

        return ScoreRanker(record, score, record.heads, width=self.width)

    @property
    def width(self) -> int:
        """[row, key] blocks that scoring holds at once."""
        own = self.record.keys.heads * self.size * self.record.queries.shape[-1]
        return 2 * self.record.heads + -(-own // max(self.record.length, 1))

    def scores(self, rows: slice) -> Tensor:
        """float32 [head, row, block]: nothing masked; blocks behind the query hold nonsense."""
        whole = self.record.products(self.asks, self._summaries, rows)  # (head, row, block)
        own = self._own(rows)
        forced = torch.full_like(own, FORCED) if self.local else own
        return whole.scatter_(-1, self._place(rows).expand_as(own), forced)

    def visible(self, rows: slice) -> Tensor:
        """int64 [row, block]: keys of each block that each query sees."""
        seen = self.record.visible(rows)
        short = self.count * self.size - self.record.length
        return torch.nn.functional.pad(seen, (0, short)).unflatten(-1, (-1, self.size)).sum(-1)

    def cost(self) -> Cost:
        """Every block's summary once a key head, in the keys' dtype; one multiply-add a query head,
        block and value of a summary."""
        record, width = self.record, self.asks.shape[-1]
        values = self.count * width
        return Cost(
            bytes_read=float(record.keys.heads * values * record.queries.element_size()),
            multiply_adds=float(record.heads * values),
        )

    @cached_property
    def _summaries(self) -> Tensor:
        """float32 [kv_head, block, width]; zeros for a short last block, which every query that
        sees it has as its own."""
        keys = self.record.float_keys
        whole = self.record.length // self.size
        cut = keys[:, : whole * self.size].unflatten(1, (whole, self.size))
        summaries = self.summary(cut, None)
        return torch.nn.functional.pad(summaries, (0, 0, 0, self.count - whole))

    def _place(self, rows: slice) -> Tensor:
        """int64 [row, 1]: the block that holds each query's own key."""
        return (self.record.positions[rows] // self.size)[:, None]

    def _own(self, rows: slice) -> Tensor:
        """float32 [head, row, 1]: the score of each query's own block, up to the query."""
        place = self._place(rows)
        within = torch.arange(self.size, device=place.device) + place * self.size  # (row, size)
        held = within <= self.record.positions[rows, None]
        keys = self.record.float_keys[:, within.clamp(max=self.record.length - 1)]
        summaries = self.summary(keys, held)  # (kv_head, row, width)
        asks = self.asks[:, rows].unflatten(0, (len(summaries), -1))
        return torch.einsum("kgrw,krw->kgr", asks, summaries).flatten(0, 1)[..., None]


def bounds(keys: Tensor, held: Tensor | None) -> Tensor:
    """The largest value of each channel, then the smallest: [..., 2 * dim]."""
    if held is None:
        return torch.cat([keys.amax(-2), keys.amin(-2)], dim=-1)
    absent = ~held[..., None]
    largest = keys.masked_fill(absent, float("-inf")).amax(-2)
    return torch.cat([largest, keys.masked_fill(absent, float("inf")).amin(-2)], dim=-1)


def bound_asks(queries: Tensor) -> Tensor:
    """What meets `bounds` so that the product is sum_i max(q_i * min_i, q_i * max_i): a channel
    asks for its maximum where q_i is positive and for its minimum where it is negative."""
    return torch.cat([queries.clamp(min=0), queries.clamp(max=0)], dim=-1).float()


def mean(keys: Tensor, held: Tensor | None) -> Tensor:
    """The mean key: [..., dim]."""
    if held is None:
        return keys.mean(-2)
    weights = held[..., None].float()
    return (keys * weights).sum(-2) / weights.sum(-2)


def check_size(name: str, size: int) -> None:
    """Raises ValueError for a block that could hold no key."""
    if size < 1:
        raise ValueError(f"{name} = {size}; expected 1 or more")
