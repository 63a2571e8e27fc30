"""The model's own indexer, recomputed from its captured operands in any number format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from indexer_kernels.quantize import Quantised, e2m1, e4m3, hadamard, integer
from indexer_kernels.topk import KernelError
from indexer_lab.backend import Backend, use_kernels
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, ScoreRanker, index_cost, need_indexer
from indexer_lab.selectors.expanded import Expanded
from indexer_lab.unit_level import UnitRecord, has_units, unit_record
from indexer_probes import units
from indexer_probes.records import IndexerRecord, LayerRecord

Precision = Literal["native", "fp8", "fp4", "int8"]
BITS = {"fp8": 8, "int8": 8, "fp4": 4}
SCALE_BITS = {"fp8": 8, "int8": 32, "fp4": 8}  # ue8m0, float32, ue8m0
BLOCK = {"fp4": 32}
DEPLOYED_ROTATED = ("fp8", "fp4")
CODES = {"fp8": torch.float8_e4m3fn, "int8": torch.bfloat16, "fp4": torch.bfloat16}
"""Precision -> a dtype that holds its codes exactly (of fp4, codes times their block's scale)."""
VECTOR_BYTES = 256  # of an index vector: longer ones overflow the kernel's shared memory


@dataclass(frozen=True)
class Lightning:
    """The model's indexer rescored: sum over index heads of w * ReLU(q.k), in a chosen precision.

    precision: native  the captured operands, products and sums in float32.
               fp8     e4m3, one power-of-two scale a vector: DeepSeek-V3.2 as it is deployed.
               fp4     e2m1, one power-of-two scale per 32 values: DeepSeek-V4's engines.
               int8    one float32 scale a vector.
    hadamard:  rotate queries and keys before they are rounded; none means as deployed: yes for fp8
               and fp4, no for int8.
    backend:   auto for the kernel on a GPU, or triton or torch. The kernel takes index vectors of
               up to 256 bytes (fp8: 256 values, bf16: 128, float32: 64); auto leaves longer ones
               to torch, and an indexer that selects units.
    """

    ranks_units: ClassVar[bool] = True

    precision: Precision = "native"
    hadamard: bool | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.precision == "native" and self.hadamard:
            raise ValueError("hadamard = true rotates before rounding, and native rounds nothing")

    def fit(self, record: LayerRecord) -> Ranker:
        indexer = need_indexer(record, "lightning")
        if has_units(record):
            return Expanded(self.fit(unit_record(record)), record)
        if isinstance(record, UnitRecord):
            return self._of_units(record, indexer)
        coded, factors = self.coded(indexer)
        dtype = CODES.get(self.precision)
        if use_kernels(self.backend, record.queries.device, _obstacle(indexer, dtype)):
            from indexer_lab.selectors.lightning_kernel import LightningKernel

            kernel = LightningKernel(record, coded, factors, dtype, self.backend)
            return ScoreRanker(record, kernel.scores, 1, kernel=kernel.top)

        def score(rows: slice) -> Tensor:
            scores = coded.scores(rows)
            return (scores if factors is None else scores * factors)[None]

        return ScoreRanker(record, score, 1, width=2 * indexer.queries.shape[0])

    def _of_units(self, record: UnitRecord, indexer: IndexerRecord) -> Ranker:
        """Scores of units as the model pools, masks and forces them, from rounded operands."""
        use_kernels(self.backend, record.queries.device, "its indexer selects units, not tokens")
        if self.precision != "native":
            queries, keys = self._rounded(indexer.queries), self._rounded(indexer.keys)
            indexer = replace(indexer, queries=queries.dequantise(), keys=keys.dequantise())

        def score(rows: slice) -> Tensor:
            return units.ranked(indexer, rows, record.base.positions[rows])

        return ScoreRanker(record, score, indexer.sets, width=2 * indexer.queries.shape[0])

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every index key once: dim * bits / 8 bytes and its scales; a multiply-add for each index
        head, key and dimension, and one more a head and key for its weight."""
        indexer = need_indexer(record, "lightning")
        if self.precision == "native":
            return index_cost(indexer, bits=8 * indexer.keys.element_size())
        dim = indexer.keys.shape[-1]
        scales = -(-dim // BLOCK.get(self.precision, dim)) * SCALE_BITS[self.precision]
        return index_cost(indexer, BITS[self.precision], scale_bits=scales)

    def coded(self, indexer: IndexerRecord) -> tuple[IndexerRecord, Tensor | None]:
        """The indexer over codes, and the factor [key] on its scores, None for 1."""
        if self.precision == "native":
            return indexer, None
        return _folded(indexer, self._rounded(indexer.queries), self._rounded(indexer.keys))

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
) -> tuple[IndexerRecord, Tensor | None]:
    """The indexer over codes, and the factor [key] on its scores, None for 1.

    One scale a vector leaves the product as it is deployed: codes are multiplied, the query's scale
    goes into the head weight and the key's onto the finished sum, which ReLU allows because scales
    are positive. Scales per block belong inside the product.
    """
    if queries.scales.shape[-1] > 1:
        whole = replace(indexer, queries=queries.dequantise(), keys=keys.dequantise())
        return whole, None
    weights = indexer.weights.float() * queries.scales[..., 0].mT  # (query, index_head)
    coded = replace(indexer, queries=queries.codes, keys=keys.codes, weights=weights)
    return coded, keys.scales[..., 0]


def _obstacle(indexer: IndexerRecord, dtype: torch.dtype | None) -> str | None:
    """Why the kernel cannot take these index vectors; None where it can."""
    held = dtype or torch.promote_types(indexer.queries.dtype, indexer.keys.dtype)
    dim, size = indexer.keys.shape[-1], held.itemsize
    if dim * size <= VECTOR_BYTES:
        return None
    return f"index vectors of {dim} x {size} bytes are over the {VECTOR_BYTES} that its tiles hold"
