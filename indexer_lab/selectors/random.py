"""The floor: what a budget buys when nothing at all is known about the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker
from indexer_probes.records import LayerRecord

MULTIPLIER = -0x61C8864680B583EB  # 2**64 over the golden ratio, as a signed 64-bit integer
MIXER = -0x40A7B892E31B1A47  # splitmix64's first multiplier
LOW_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Random:
    """Visible keys drawn uniformly without replacement, one draw a query head.

    seed: another seed, another draw. A key's place in the draw is a hash of seed, layer, head,
          query position and key position: it stays the same whatever else was captured, and a
          smaller budget takes a prefix of a larger one's draw.
    """

    ranks_units: ClassVar[bool] = True

    seed: int = 0

    def fit(self, record: LayerRecord) -> Ranker:
        def score(rows: slice) -> Tensor:
            return lots(record, rows, self.seed, record.heads)

        return ScoreRanker(record, score, record.heads, width=4 * record.heads)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Nothing is read: a hash of positions decides."""
        return Cost(bytes_read=0.0, multiply_adds=0.0)


def lots(record: LayerRecord, rows: slice, seed: int, sets: int) -> Tensor:
    """float32 [set, row, key]: each key's lot, a whole number below 2**24, all equally likely."""
    device = record.queries.device
    one_set = torch.arange(sets, device=device)[:, None]
    key = torch.arange(record.length, device=device)
    start = _hash(_hash(_hash(one_set, seed), record.layer), record.positions[rows])
    return _hash(start[..., None], key).bitwise_and_(0xFFFFFF).float()


def _hash(state: Tensor, value: Tensor | int) -> Tensor:
    """int64, broadcast: 32 well-mixed bits of a state and one more integer."""
    mixed = state * MULTIPLIER + (torch.as_tensor(value, device=state.device) + 1) * MIXER
    mixed ^= (mixed >> 32).bitwise_and_(LOW_32)  # >> keeps the sign: drop what it shifts in
    mixed *= MIXER
    return (mixed >> 32).bitwise_and_(LOW_32)
