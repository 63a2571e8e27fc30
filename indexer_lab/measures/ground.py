"""The exact side of a comparison: one block of query rows, computed once for every selector."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.targets import HIDDEN, Target, probabilities
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.kernel_record import KernelRecord


class Block:
    """Some query rows of a record with what the measures ask of them, whatever the budget.

    Arrays here are [head, row, ...]; a block is meant to be small (see LayerRecord.chunks).
    kernels: the record for Triton kernels, which then answer what they can; None for torch alone.
    """

    def __init__(self, record: LayerRecord, rows: slice, kernels: KernelRecord | None = None):
        self.record = record
        self.rows = rows
        self.kernels = kernels
        self.positions = record.positions[rows]  # (row,)
        self.visible = record.count(rows)  # (row,)

    @cached_property
    def logits(self) -> Tensor:
        """float32 [head, row, key], hidden keys at -inf"""
        return self.record.logits(self.rows)

    @cached_property
    def probs(self) -> Tensor:
        """float32 [head, row, key]: softmax over the visible keys, sinks left out"""
        return probabilities(self.logits)

    @cached_property
    def descending(self) -> Tensor:
        """float32 [head, row, key]: the same, largest first"""
        return self.probs.sort(dim=-1, descending=True).values

    @cached_property
    def entropy(self) -> Tensor:
        """float32 [head, row]: of p over the visible keys, nats"""
        if self.kernels is not None:
            return self.kernels.statistics.entropy[:, self.rows]
        return torch.special.entr(self.probs).sum(-1)

    def needed(self, share: float) -> Tensor:
        """float32 [head, row]: keys whose probabilities reach this share, largest first"""
        if self.kernels is not None:
            return self.kernels.needed(share, self.rows)
        reached = self.descending.cumsum(-1) >= share
        short = ~reached.any(-1)  # rounding can leave the sum a hair under the share
        return torch.where(short, self.visible, reached.int().argmax(-1) + 1).float()

    @cached_property
    def on_keys(self) -> Tensor:
        """float32 [head, row]: the share of attention that attention sinks leave to the keys"""
        sinks = self.record.mask.sinks
        if sinks is None:
            shape = self.record.heads, len(self.positions)
            return torch.ones(shape, device=self.positions.device)
        return torch.sigmoid(self._log_sum() - sinks.float()[:, None])

    def _log_sum(self) -> Tensor:
        """float32 [head, row]: log of the sum of exp(logit) over the visible keys"""
        if self.kernels is not None:
            return self.kernels.statistics.lse[:, self.rows]
        return self.logits.logsumexp(-1)

    @cached_property
    def output(self) -> Tensor | None:
        """float32 [head, row, value_dim]: the exact attention output, None without values"""
        attended = self.attend(self.probs)
        return None if attended is None else attended * self.on_keys[..., None]

    def attend(self, weights: Tensor) -> Tensor | None:
        """[head, row, value_dim]: weights [head, row, key] times the values, None without any."""
        values = self.record.float_values
        if values is None:
            return None
        head, row, key = weights.shape
        kv_heads = values.shape[0]
        grouped = weights.reshape(kv_heads, head // kv_heads * row, key)
        return (grouped @ values).view(head, row, -1)

    def sees(self, positions: Tensor) -> Tensor:
        """bool like positions [..., row, place]: inside the keys and visible to the row's query."""
        if self.record.entries is not None:  # seen through an entry too, beyond the window
            inside = (positions >= 0) & (positions < self.record.length)
            seen = self.record.visible(self.rows).expand(*positions.shape[:-1], -1)
            return inside & seen.gather(-1, positions.masked_fill(~inside, 0))
        query = self.positions[:, None]
        window = self.record.mask.window
        seen = (positions >= 0) & (positions <= query)
        return seen if window is None else seen & (query - positions < window)


class Ground:
    """A block held against one target: its values, and the exact support at any budget.

    exact: int64 [set, query, largest + 1], the record's exact support where a kernel picked it;
           None to pick from the block's own values.
    """

    def __init__(self, block: Block, target: Target, largest: int, exact: Tensor | None = None):
        self.block = block
        self.target = target
        self.largest = largest
        self.exact = exact
        self._cache: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def values(self, budget: int) -> Tensor:
        """float32 [set, row, key]: the target's values, hidden keys at -inf"""
        return self._at(budget)[0]

    def support(self, budget: int) -> Tensor:
        """int64 [set, row, budget]: the exact support, -1 pads at the end"""
        return self._at(budget)[2][..., :budget]

    def top_values(self, budget: int) -> Tensor:
        """float32 [set, row, budget + 1]: the largest values, -inf where there are fewer keys"""
        return self._at(budget)[1][..., : budget + 1]

    def _at(self, budget: int) -> tuple[Tensor, Tensor, Tensor]:
        key = budget if self.target.by_budget else self.largest
        if key not in self._cache:
            values = self.target.values(self.block.logits, self.block.record, budget)
            top_values, top_positions = self._top(values, key + 1)
            if self.target.by_budget:  # one budget at a time, so that memory does not add up
                self._cache.clear()
            self._cache[key] = values, top_values, top_positions
        return self._cache[key]

    def _top(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest values and their positions [set, row, k]."""
        if self.exact is not None:
            chosen = self.exact[:, self.block.rows, :k]
            return _read(values, chosen), chosen
        return topk(values, k) if self.block.kernels is None else self.block.kernels.pick(values, k)


def _read(values: Tensor, chosen: Tensor) -> Tensor:
    """The values at positions that a kernel ranked, -inf at pads, never rising along a row.

    The kernel's sums may order two keys the other way round than these values do where they differ
    by rounding alone. The running minimum keeps every prefix's last value its smallest, which is
    what ties at its boundary are held against.
    """
    read = values.gather(-1, chosen.clamp(min=0)).masked_fill_(chosen < 0, HIDDEN)
    return read.cummin(-1).values
