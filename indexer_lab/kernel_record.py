"""A layer record as the kernels take it: their answers in the layout of targets and measures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from indexer_kernels.attention_statistics import (
    SHARES,
    AttentionStatistics,
    attention_statistics,
    support_mass,
)
from indexer_kernels.exact_topk import exact_topk
from indexer_kernels.headsum_topk import headsum_topk
from indexer_kernels.operands import DTYPES, as_rows
from indexer_kernels.row_topk import row_topk
from indexer_kernels.sparse_attention import sparse_attention
from indexer_probes.records import LayerRecord

TRITON = "triton"


class KernelRecord:
    """One layer record, its operands ready for the kernels and its statistics computed once.

    Supports are int64 [set, row, place] with distinct visible positions and negative pads, one set
    for all heads, one a key head or one a query head.
    """

    def __init__(self, record: LayerRecord):
        self.record = record

    @cached_property
    def operands(self) -> tuple[Tensor, Tensor]:
        """queries [head, query, dim] and keys [kv_head, key, dim] of one dtype"""
        return alike(self.record.queries, self.record.keys.keys())

    @cached_property
    def statistics(self) -> AttentionStatistics:
        """lse and entropy [head, query], and the keys needed for 90, 95 and 99 % of the mass"""
        queries, keys = self.operands
        return attention_statistics(queries, keys, shares=SHARES, backend=TRITON, **self._seen())

    def needed(self, share: float, rows: slice) -> Tensor:
        """float32 [head, row]: keys whose probabilities reach one of SHARES."""
        found = self.statistics.needed
        assert found is not None  # shares were asked for
        return found[:, rows, SHARES.index(share)].float()

    def top(self, k: int) -> Tensor:
        """int64 [head, query, k]: each query head's largest logits."""
        queries, keys = self.operands
        take = min(k, self.record.length)
        return padded(exact_topk(queries, keys, take, backend=TRITON, **self._seen())[1], k)

    def mean_top(self, k: int, group: int) -> Tensor:
        """int64 [set, query, k]: the largest probabilities averaged over `group` query heads."""
        take = min(k, self.record.length)
        sets = [
            headsum_topk(queries, keys, take, backend=TRITON, **self._seen())[1]
            for queries, keys in self._groups(group)
        ]
        return padded(torch.stack(sets), k)

    def pick(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`topk` of stored values float32 [set, row, key]."""
        sets, rows, keys = values.shape
        best, at = row_topk(values.reshape(-1, keys), min(k, keys), backend=TRITON)
        best = torch.nn.functional.pad(best, (0, k - best.shape[-1]), value=float("-inf"))
        return best.view(sets, rows, k), padded(at, k).view(sets, rows, k)

    def mass(self, support: Tensor, rows: slice) -> Tensor:
        """float32 [head, row]: softmax probability on a support of these rows."""
        queries, keys = self.operands
        laid_out = as_rows(queries[:, rows], keys, **self._seen(rows))
        lse = self.statistics.lse[:, rows].contiguous()
        return support_mass(laid_out, support, lse, lse.shape[1]).view(lse.shape)

    def attend(self, support: Tensor, rows: slice) -> Tensor | None:
        """float32 [head, row, value_dim]: the output with the softmax over the support alone.

        In float32: bfloat16 operands would round the probabilities too, which drowns small errors.
        """
        values = self.record.float_values
        if values is None:
            return None
        queries, keys = self.record.queries[:, rows].float(), self.record.float_keys
        return sparse_attention(
            queries, keys, values, support, scale=self.record.scale, backend=TRITON
        )[0]

    def _groups(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Query heads `size` at a time, with the key heads that they read."""
        queries, keys = self.operands
        for start in range(0, self.record.heads, size):
            first, last = start // self.record.group, (start + size - 1) // self.record.group
            yield queries[start : start + size], keys[first : last + 1]

    def _seen(self, rows: slice = slice(None)) -> dict[str, Any]:
        record = self.record
        return {
            "scale": record.scale,
            "positions": record.positions[rows],
            "window": record.mask.window,
        }


def alike(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Both in a dtype that kernels take: their own where they agree on one, else float32."""
    if queries.dtype == keys.dtype and queries.dtype in DTYPES:
        return queries, keys
    return queries.float(), keys.float()


def padded(positions: Tensor, places: int) -> Tensor:
    """The positions with -1 pads up to this many places."""
    return torch.nn.functional.pad(positions, (0, places - positions.shape[-1]), value=-1)
