"""The main scores from narrow keys: what a cheaper copy of the key cache still ranks right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from indexer_kernels.quantize import Quantised as Codes
from indexer_kernels.quantize import e2m1, e4m3, hadamard, integer, sign
from indexer_kernels.topk import KernelError
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, product_ranker
from indexer_probes.records import LayerRecord

BITS = {"fp8": 8, "int8": 8, "int4": 4, "fp4": 4, "sign": 1}
SCALE_BITS = {"fp8": 8, "int8": 32, "int4": 32, "fp4": 8, "sign": 32}
BLOCK = {"fp4": 32}
BOTH_DEPLOYED = ("fp8", "int8", "fp4")


@dataclass(frozen=True)
class Quantised:
    """Main q.k with keys in a narrow format, each query head on its own.

    precision: fp8   e4m3, one power-of-two scale a vector; queries too, as FP8 attention does.
               int8  one float32 scale a vector; queries too, as SageAttention does.
               fp4   e2m1, one power-of-two scale per 32 values; queries too, as FP4 matmuls must.
               int4  one float32 scale a vector; queries stay, as with int4 key caches.
               sign  one bit a value and the mean magnitude; queries stay.
    queries:   true or false overrides whether queries are rounded as well.
    hadamard:  rotate both before rounding (QuaRot); the head dim must be a power of two.
    Keys of latent attention are rounded as the heads see them, after the up-projection.
    """

    precision: Literal["fp8", "int8", "int4", "fp4", "sign"] = "fp8"
    queries: bool | None = None
    hadamard: bool = False

    def fit(self, record: LayerRecord) -> Ranker:
        keys = self._round(self._ready(record.float_keys)).dequantise()
        queries = self._ready(record.queries)
        if self._rounds_queries():
            queries = self._round(queries).dequantise()
        return product_ranker(record, queries, keys)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every key head's keys once: dim * bits / 8 bytes and the scales; one multiply-add a query
        head, key and dimension."""
        dim = record.queries.shape[-1]
        scales = -(-dim // BLOCK.get(self.precision, dim)) * SCALE_BITS[self.precision]
        bits = dim * BITS[self.precision] + scales
        return Cost(
            bytes_read=record.keys.heads * record.length * bits / 8,
            multiply_adds=float(record.heads * record.length * dim),
        )

    def _rounds_queries(self) -> bool:
        return self.precision in BOTH_DEPLOYED if self.queries is None else self.queries

    def _ready(self, operand: Tensor) -> Tensor:
        try:
            return hadamard(operand) if self.hadamard else operand
        except KernelError as error:
            raise InputError(f"selector 'quantised': {error}; leave hadamard out") from error

    def _round(self, operand: Tensor) -> Codes:
        if self.precision == "fp8":
            return e4m3(operand)
        if self.precision == "fp4":
            return e2m1(operand, BLOCK["fp4"])
        return sign(operand) if self.precision == "sign" else integer(operand, BITS[self.precision])
