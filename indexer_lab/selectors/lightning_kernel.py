"""The Lightning Indexer's scores and top-k from its Triton kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import operand
from indexer_kernels.lightning_topk import lightning_scores, lightning_topk
from indexer_lab.backend import Backend, too_many, use_kernels, working_on
from indexer_lab.kernel_record import alike, padded
from indexer_lab.selectors.base import Support
from indexer_probes.records import IndexerRecord, LayerRecord


class LightningKernel:
    """One record's indexer, its operands ready for the kernel.

    indexer: queries and keys are codes of a narrow format, or what the model multiplied.
    factors: float32 [key] on the finished scores, None for 1.
    dtype:   holds every code exactly; None for the operands' own.
    fp8 products are summed in float32 at every step: 14 bits of Hopper's matrix units would move
    keys near the boundary, which is what is being measured.
    """

    def __init__(
        self,
        record: LayerRecord,
        indexer: IndexerRecord,
        factors: Tensor | None,
        dtype: torch.dtype | None,
        backend: Backend,
    ):
        self.record = record
        self.indexer = indexer
        self.factors = factors
        self.backend = backend
        queries, keys = indexer.queries, indexer.keys
        self.queries, self.keys = (
            alike(queries, keys) if dtype is None else (queries.to(dtype), keys.to(dtype))
        )
        self._swapped = operand(self.queries.transpose(0, 1).contiguous())  # (query, head, dim)

    def top(self, budget: int) -> Support | None:
        """int64 [1, query, budget]; None where torch is to rank so many keys."""
        units = self.indexer.units
        if not use_kernels(self.backend, self.queries.device, too_many(budget, units)):
            return None
        with working_on(self.queries.device):
            found = lightning_topk(
                self.queries,
                self.keys,
                self.indexer.weights.float(),
                min(budget, units),
                scale=self.indexer.scale,
                key_scales=self.factors,
                activation=self.indexer.activation,
                positions=self.record.positions,
                window=self.record.mask.window,
                precise=True,
                backend="triton",
            )[1]
        return padded(found, budget)[None]

    def scores(self, rows: slice) -> Tensor:
        """float32 [1, row, key], hidden keys at -inf"""
        first, last, _ = rows.indices(self.record.rows)
        return lightning_scores(
            self._swapped,
            operand(self.keys),
            self.indexer.weights.float().contiguous(),
            slice(first, last),
            scale=self.indexer.scale,
            key_scales=self.factors,
            relu=self.indexer.activation == "relu",
            positions=self.record.positions,
            window=self.record.mask.window,
            precise=True,
        )[None]
