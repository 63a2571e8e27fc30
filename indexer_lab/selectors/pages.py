"""Keys in pages of neighbours, each known by the smallest and largest value of every channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Pages:
    """The keys of a record in pages of `size` tokens from position 0 on.

    A page scores the most that any key within its bounds could: sum_i max(q_i low_i, q_i high_i).
    The page that holds the query has the bounds of its keys up to the query, as it would have while
    the sequence runs; later pages and those that a window hides whole score -inf.
    Source: Quest (arXiv 2406.10774).
    """

    record: LayerRecord
    size: int

    def __post_init__(self) -> None:
        check_page(self.size)

    @property
    def count(self) -> int:
        return -(-self.record.length // self.size)

    def scores(self, rows: slice) -> Tensor:
        """float32 [head, row, page], not scaled; -inf where a page holds no visible key."""
        record = self.record
        scores = self._bound(self.lows[:, :, -1], self.highs[:, :, -1], rows)
        own = record.positions[rows] // self.size  # (row,)
        column = own[None, :, None].expand(record.heads, -1, 1)
        scores.scatter_(-1, column, self._own(rows)[..., None])
        return scores.masked_fill(~self.seen(rows), float("-inf"))

    def tokens(self, scores: Tensor) -> Tensor:
        """[..., key]: what [..., page] says of a page, said of each of its tokens."""
        return scores.repeat_interleave(self.size, dim=-1)[..., : self.record.length]

    def seen(self, rows: slice) -> Tensor:
        """bool [row, page]: whether the query sees any key of the page."""
        visible = self.record.visible(rows)
        room = self.count * self.size - self.record.length
        return torch.nn.functional.pad(visible, (0, room)).unflatten(-1, (-1, self.size)).any(-1)

    @cached_property
    def lows(self) -> Tensor:
        """float32 [kv_head, page, place, dim]: the least of each page's keys up to a place."""
        return self._running(float("inf")).cummin(2).values

    @cached_property
    def highs(self) -> Tensor:
        """float32 [kv_head, page, place, dim]: the most of each page's keys up to a place."""
        return self._running(float("-inf")).cummax(2).values

    def cost(self) -> Cost:
        """Both bounds of every page once, in the queries' dtype, for each key head; two
        multiply-adds a query head, page and dimension."""
        record, dim = self.record, self.record.queries.shape[-1]
        bounds = 2 * self.count * dim
        return Cost(
            bytes_read=float(record.keys.heads * bounds * record.queries.element_size()),
            multiply_adds=float(record.heads * bounds),
        )

    def _running(self, empty: float) -> Tensor:
        """The keys by page, the last page filled up with `empty`."""
        keys = self.record.float_keys
        room = self.count * self.size - self.record.length
        filled = torch.nn.functional.pad(keys, (0, 0, 0, room), value=empty)
        return filled.unflatten(1, (self.count, self.size))

    def _bound(self, lows: Tensor, highs: Tensor, rows: slice) -> Tensor:
        """float32 [head, row, page]: max(q low, q high) is q high where q > 0, else q low."""
        queries, products = self.record.queries.float(), self.record.products
        return products(queries.clamp(min=0), highs, rows).add_(
            products(queries.clamp(max=0), lows, rows)
        )

    def _own(self, rows: slice) -> Tensor:
        """float32 [head, row]: the same for each query's own page, up to the query."""
        record, position = self.record, self.record.positions[rows]
        page, place = position // self.size, position % self.size
        queries = record.queries[:, rows].float().unflatten(0, (-1, record.group))
        low, high = (bound[:, None, page, place] for bound in (self.lows, self.highs))
        most = torch.maximum(queries * low, queries * high)  # (kv_head, group, row, dim)
        return most.sum(-1).flatten(0, 1)


def check_page(size: int) -> None:
    """Raises ValueError for a page of no tokens."""
    if size < 1:
        raise ValueError(f"page = {size}; expected 1 token or more")
