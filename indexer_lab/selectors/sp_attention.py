"""Bands of distances, one a head: sparse by position alone, whatever the keys say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, Support
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class SPAttention:
    """Each head its own band of distances; together the heads cover every distance once.

    With H heads and N keys, head h sees key j from query i iff j <= i and S <= i - j < S + W, where
    W = floor(N / H) + [h < N mod H] and S = h floor(N / H) + min(h, N mod H).
    length: N; none for the keys of the record, which at a decode step are those so far.
    A budget under W keeps the band's nearest keys. A late head has nothing to see early on: its
    support is all pads, and a softmax of nothing is zero. The bands are meant to be trained with;
    laid on a model that was not, they are a floor that knows positions only.
    Source: SPAttention (arXiv 2511.09596).
    """

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"length = {self.length}; expected 1 key or more")

    def fit(self, record: LayerRecord) -> Ranker:
        return _Bands(record, self.length or record.length)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Nothing is read: positions alone decide."""
        return Cost(bytes_read=0.0, multiply_adds=0.0)


@dataclass(frozen=True)
class _Bands:
    record: LayerRecord
    length: int

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        """int64 [head, query, budget], nearest first."""
        record, device = self.record, self.record.queries.device
        head = torch.arange(record.heads, device=device)[:, None, None]
        place = torch.arange(budget, device=device)
        share, rest = divmod(self.length, record.heads)
        width = share + (head < rest)
        start = head * share + head.clamp(max=rest)
        distance = start + place
        key = record.positions[:, None] - distance  # (head, query, place)
        reach = record.length if record.mask.window is None else record.mask.window
        inside = (place < width) & (key >= 0) & (distance < reach)
        return key.masked_fill(~inside, -1)
