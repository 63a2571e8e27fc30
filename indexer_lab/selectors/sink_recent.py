"""The keys that any query could do with, chosen without looking at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class SinkRecent:
    """The sequence's first keys, then the most recent ones: blind to content.

    sinks: how many of the first positions come before any recent key; a window that hides them
           leaves their places to recent keys. Source: StreamingLLM (arXiv 2309.17453), 4 sinks.
    """

    ranks_units: ClassVar[bool] = True

    sinks: int = 4

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise ValueError(f"sinks = {self.sinks}; expected 0 or more")

    def fit(self, record: LayerRecord) -> Ranker:
        key = torch.arange(record.length, device=record.queries.device)
        order = torch.where(key < self.sinks, record.length + self.sinks - key, key).float()

        def score(rows: slice) -> Tensor:
            return order.repeat(1, len(record.positions[rows]), 1)

        return ScoreRanker(record, score, sets=1)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Nothing is read: positions alone decide."""
        return Cost(bytes_read=0.0, multiply_adds=0.0)
