"""The main scores from the few channels in which a query is largest."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from indexer_lab.selectors.base import Cost, Ranker, product_ranker
from indexer_lab.selectors.channels import check_count, check_most, largest
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Sparq:
    """q.k over the `channels` largest |q_i| of each query, each query head for itself.

    channels: how many are read, at most the head dim.
    The paper's softmax temperature changes no order. Its recent keys that are always kept and its
    mean value in place of the keys left out are not here: this ranks keys and nothing else.
    Keys of latent attention are read as the heads see them, after the up-projection.
    Source: SparQ Attention (arXiv 2312.04985), step 1.
    """

    channels: int = 16

    def __post_init__(self) -> None:
        check_count("channels", self.channels)

    def fit(self, record: LayerRecord) -> Ranker:
        return product_ranker(record, record.queries * self._read(record), record.float_keys)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Of every key the channels that its key head's queries read, each once: the mean over the
        record's queries of how many differ. One multiply-add a query head, key and channel."""
        by_group = self._read(record).unflatten(0, (record.keys.heads, -1))  # (kv, group, query, i)
        distinct = float(by_group.any(1).float().sum(-1).mean()) if record.rows else self.channels
        return Cost(
            bytes_read=record.keys.heads * record.length * distinct * record.queries.element_size(),
            multiply_adds=float(record.heads * record.length * self.channels),
        )

    def _read(self, record: LayerRecord) -> Tensor:
        """bool [head, query, channel]"""
        check_most(record, "sparq", "channels", self.channels, record.queries.shape[-1])
        return largest(record, record.queries.float().abs(), self.channels)
