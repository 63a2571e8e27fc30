"""The model's own indexer, recomputed from its captured operands in any number format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from indexer_kernels.quantize import Quantised, e2m1, e4m3, hadamard, integer
from indexer_kernels.topk import KernelError
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker, index_cost, token_indexer
from indexer_probes.records import IndexerRecord, LayerRecord

BITS = {"fp8": 8, "int8": 8, "fp4": 4}
SCALE_BITS = {"fp8": 8, "int8": 32, "fp4": 8}  # ue8m0, float32, ue8m0
BLOCK = {"fp4": 32}
DEPLOYED_ROTATED = ("fp8", "fp4")


@dataclass(frozen=True)
class Lightning:
    """The model's indexer rescored: sum over index heads of w * ReLU(q.k), in a chosen precision.

    precision: native  the captured operands, products and sums in float32.
               fp8     e4m3, one power-of-two scale a vector: DeepSeek-V3.2 as it is deployed.
               fp4     e2m1, one power-of-two scale per 32 values: DeepSeek-V4's engines.
               int8    one float32 scale a vector.
    hadamard:  rotate queries and keys before they are rounded; none means as deployed: yes for fp8
               and fp4, no for int8.
    """

    precision: Literal["native", "fp8", "fp4", "int8"] = "native"
    hadamard: bool | None = None

    def __post_init__(self) -> None:
        if self.precision == "native" and self.hadamard:
            raise ValueError("hadamard = true rotates before rounding, and native rounds nothing")

    def fit(self, record: LayerRecord) -> Ranker:
        indexer = token_indexer(record, "lightning")
        heads = indexer.queries.shape[0]
        if self.precision == "native":
            return ScoreRanker(record, lambda rows: indexer.scores(rows)[None], 1, width=2 * heads)
        queries, keys = self._rounded(indexer.queries), self._rounded(indexer.keys)
        coded, factors = _folded(indexer, queries, keys)

        def score(rows: slice) -> Tensor:
            return (coded.scores(rows) * factors)[None]

        return ScoreRanker(record, score, 1, width=2 * heads)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every index key once: dim * bits / 8 bytes and its scales; a multiply-add for each index
        head, key and dimension, and one more a head and key for its weight."""
        indexer = token_indexer(record, "lightning")
        if self.precision == "native":
            return index_cost(indexer, bits=8 * indexer.keys.element_size())
        dim = indexer.keys.shape[-1]
        scales = -(-dim // BLOCK.get(self.precision, dim)) * SCALE_BITS[self.precision]
        return index_cost(indexer, BITS[self.precision], scale_bits=scales)

    def _rounded(self, operand: Tensor) -> Quantised:
        rotate = self.precision in DEPLOYED_ROTATED if self.hadamard is None else self.hadamard
        try:
            ready = hadamard(operand) if rotate else operand
        except KernelError as error:
            raise InputError(f"selector 'lightning': {error}; set hadamard=false") from error
        if self.precision == "fp8":
            return e4m3(ready)
        return e2m1(ready, BLOCK["fp4"]) if self.precision == "fp4" else integer(ready, 8)


def _folded(
    indexer: IndexerRecord, queries: Quantised, keys: Quantised
) -> tuple[IndexerRecord, Tensor | float]:
    """The indexer over codes, and the factor [key] on its scores.

    One scale a vector leaves the product as it is deployed: codes are multiplied, the query's scale
    goes into the head weight and the key's onto the finished sum, which ReLU allows because scales
    are positive. Scales per block belong inside the product.
    """
    if queries.scales.shape[-1] > 1:
        whole = replace(indexer, queries=queries.dequantise(), keys=keys.dequantise())
        return whole, 1.0
    weights = indexer.weights.float() * queries.scales[..., 0].mT  # (query, index_head)
    coded = replace(indexer, queries=queries.codes, keys=keys.codes, weights=weights)
    return coded, keys.scales[..., 0]
