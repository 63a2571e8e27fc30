"""The main scores in the few directions along which a head's keys vary most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, product_ranker
from indexer_lab.selectors.channels import check_count, check_most
from indexer_lab.selectors.following import CalibratedFollower
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Loki:
    """q.k in the first `rank` principal components of each key head's keys.

    rank: components kept, at most the head dim.
    The paper finds the components offline on other text, before or after RoPE; here they are those
    of the record's own keys after RoPE: all of them in a capture, the prompt's in a live run, once.
    Keys of latent attention are taken as the heads see them, after the up-projection.
    Source: Loki (arXiv 2406.02542).
    """

    rank: int = 16

    def __post_init__(self) -> None:
        check_count("rank", self.rank)

    def fit(self, record: LayerRecord) -> Ranker:
        return self.fitted(record, self.calibrate(record))

    def follow(self) -> CalibratedFollower[Tensor]:
        """Along a running sequence: components found on the prompt and kept."""
        return CalibratedFollower(self)

    def calibrate(self, record: LayerRecord) -> Tensor:
        """float32 [kv_head, dim, rank]: orthonormal directions, most variance first."""
        keys = record.float_keys
        check_most(record, "loki", "rank", self.rank, keys.shape[-1])
        if not bool(keys.isfinite().all()):
            raise InputError(f"layer {record.layer}: keys hold NaN or infinity")
        centred = (keys - keys.mean(1, keepdim=True)).double()
        directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors  # variance ascending
        return directions.flip(-1)[..., : self.rank].float()

    def fitted(self, record: LayerRecord, calibrated: Tensor) -> Ranker:
        by_head = calibrated.repeat_interleave(record.group, dim=0)
        return product_ranker(
            record, record.queries.float() @ by_head, record.float_keys @ calibrated
        )

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every key's components once a key head, in the keys' dtype; one multiply-add a query
        head, key and component, and dim of them a component to turn the query."""
        values = record.length * self.rank
        turning = record.queries.shape[-1] * self.rank
        return Cost(
            bytes_read=float(record.keys.heads * values * record.queries.element_size()),
            multiply_adds=float(record.heads * (values + turning)),
        )
