"""The main scores from the few channels that matter most on the whole: a label cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, product_ranker
from indexer_lab.selectors.channels import check_count, check_most, largest
from indexer_lab.selectors.following import CalibratedFollower
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class DoubleSparsity:
    """q.k over `channels` fixed channels of each key head, chosen by a statistic of the record.

    channels: how many, at most the head dim.
    by:       qk  mean |q_i k_i| over all pairs of a stored query and a key, which is mean |q_i|
                  times mean |k_i|; summed over the query heads of a key head.
              k   mean |k_i|. q  mean |q_i|.
    The paper calibrates offline on other text; here the record is its own: all of its queries and
    keys in a capture; in a live run, the prompt's keys and the first query that selects, once.
    Labels keep the keys' precision; the paper also rounds them to 4 bits.
    Keys of latent attention are read as the heads see them, after the up-projection.
    Source: Double Sparsity (arXiv 2408.07092).
    """

    channels: int = 16
    by: Literal["qk", "k", "q"] = "qk"

    def __post_init__(self) -> None:
        check_count("channels", self.channels)

    def fit(self, record: LayerRecord) -> Ranker:
        return self.fitted(record, self.calibrate(record))

    def follow(self) -> CalibratedFollower[Tensor]:
        """Along a running sequence: channels chosen on the prompt and kept."""
        return CalibratedFollower(self)

    def calibrate(self, record: LayerRecord) -> Tensor:
        """bool [kv_head, channel]: those that are read."""
        check_most(record, "double_sparsity", "channels", self.channels, record.queries.shape[-1])
        keys = record.float_keys.abs().mean(1)
        queries = record.queries.float().abs().mean(1).unflatten(0, (len(keys), -1)).sum(1)
        size = {"qk": queries * keys, "k": keys, "q": queries}[self.by]
        return largest(record, size, self.channels)

    def fitted(self, record: LayerRecord, calibrated: Tensor) -> Ranker:
        read = calibrated.repeat_interleave(record.group, dim=0)[:, None]
        return product_ranker(record, record.queries * read, record.float_keys)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every key's labels once a key head; one multiply-add a query head, key and channel."""
        values = record.length * self.channels
        return Cost(
            bytes_read=float(record.keys.heads * values * record.queries.element_size()),
            multiply_adds=float(record.heads * values),
        )
