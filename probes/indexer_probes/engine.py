"""What may compute in a model's place where its own way would not fit or would be slow."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from indexer_probes.records import LatentKeys


class Engine(Protocol):
    """Streams an indexer's top-k and the attention over it: nothing [query, head, key] exists.

    A probe gives it operands that the model made, and proves its answers on some rows against the
    model's own scores (picking.py).
    """

    def index_topk(
        self,
        queries: Tensor,
        keys: Tensor,
        weights: Tensor,
        k: int,
        *,
        scale: float,
        activation: str,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The k units of highest index score for each query, highest first.

        queries: [index_head, query, dim], keys: [unit, dim], weights: float32 [query, index_head].
        positions: int64 [query], the last unit that each query sees.
        returns: float32 values and int64 units [query, k]; -inf and -1 where it sees fewer.
        """
        ...

    def sparse_attention(
        self, queries: Tensor, keys: LatentKeys, support: Tensor, scale: float
    ) -> Tensor:
        """[query, head, value_dim] in the queries' dtype: attention to the support alone.

        queries: [head, query, nope_dim + rope_dim]; keys hold their values' up-projection.
        support: int64 [query, k], -1 pads.
        """
        ...
