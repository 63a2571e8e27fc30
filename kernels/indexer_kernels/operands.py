"""Input checks and the row layout that the attention kernels share.

Kernels see [batch, row, dim] queries against [batch, key, dim] keys: one batch a key head, and its
group of query heads laid out as further rows. Grouped-query attention then needs no code of its
own, and a decode step with a few queries fills a tile with the heads of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import common_device, operand
from indexer_kernels.topk import HIDDEN, KernelError

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_K = 8192
WORKSPACE = 800 << 20  # bytes of scratch that a launch may hold unless one row block needs more
REFERENCE_BYTES = 64 << 20  # a reference's float32 [head, row, key] chunk stays under this


@dataclass
class Tally:
    """How often a row's first answer was not proven; exact_topk and its kin add to it.

    rows: rows answered. repaired: rows answered again with all their logits in memory.
    """

    rows: int = 0
    repaired: int = 0


@dataclass(frozen=True)
class Rows:
    """Attention operands in kernel layout.

    queries:   [batch, row, dim], rows = group * query, contiguous.
    keys:      [batch, key, dim], last axis contiguous.
    positions: int32 [row], the last key each row sees; None when every key is visible.
    window:    keys visible to a row, its own included; None for all.
    """

    queries: Tensor
    keys: Tensor
    positions: Tensor | None
    window: int | None
    scale: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """batch, rows, keys, dim"""
        return (*self.queries.shape[:2], *self.keys.shape[1:])

    def part(self, batch: slice, rows: slice) -> Rows:
        """The same problem with fewer batches and rows."""
        positions = None if self.positions is None else self.positions[rows]
        queries = self.queries[batch, rows].contiguous()
        return Rows(queries, self.keys[batch], positions, self.window, self.scale)

    def picked(self, batch: int, rows: Tensor) -> Rows:
        """One batch and the listed rows (int64)."""
        positions = None if self.positions is None else self.positions[rows].contiguous()
        queries = self.queries[batch, rows][None].contiguous()
        return Rows(queries, self.keys[batch : batch + 1], positions, self.window, self.scale)


def check_attention(
    queries: Tensor, keys: Tensor, positions: Tensor | None, window: int | None
) -> None:
    """Raises KernelError unless queries [head, query, dim] can meet keys [kv_head, key, dim]."""
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[2] != keys.shape[2]:
        raise KernelError(
            f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)}: expected "
            "[head, query, dim] and [kv_head, key, dim] with one dim"
        )
    if 0 in queries.shape or 0 in keys.shape:
        raise KernelError(
            f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)}: no axis may be empty"
        )
    if queries.shape[0] % keys.shape[0]:
        raise KernelError(
            f"{queries.shape[0]} query heads cannot share {keys.shape[0]} key heads evenly"
        )
    if queries.dtype not in DTYPES or keys.dtype != queries.dtype:
        raise KernelError(
            f"queries are {queries.dtype} and keys {keys.dtype}: expected one of "
            "bfloat16, float16, float32 for both"
        )
    if keys.shape[1] >= 1 << 31:
        raise KernelError(f"{keys.shape[1]} keys: positions are 32 bits wide in the kernels")
    check_positions(positions, window, queries.shape[1])
    common_device(queries, keys, positions)


def check_positions(positions: Tensor | None, window: int | None, queries: int) -> None:
    """Raises KernelError unless positions is None or an integer [query], window None or >= 1."""
    if positions is None:
        if window is not None:
            raise KernelError(f"window = {window} needs positions: a window ends at its query")
        return
    if positions.shape != (queries,) or positions.dtype not in (torch.int32, torch.int64):
        raise KernelError(
            f"positions are {positions.dtype} {tuple(positions.shape)}: expected int64 [{queries}]"
        )
    if window is not None and window < 1:
        raise KernelError(f"window = {window}: a query sees at least itself")


def check_k(k: int, most: int = MAX_K) -> None:
    """Raises KernelError unless 1 <= k <= most."""
    if not 1 <= k <= most:
        raise KernelError(f"k = {k}: expected 1 to {most}")


def as_rows(
    queries: Tensor, keys: Tensor, scale: float, positions: Tensor | None, window: int | None
) -> Rows:
    """queries [head, query, dim] and keys [kv_head, key, dim] in kernel layout."""
    head, query, dim = queries.shape
    group = head // keys.shape[0]
    rows = operand(queries.contiguous()).view(keys.shape[0], group * query, dim)
    repeated = None if positions is None else positions.to(torch.int32).repeat(group)
    return Rows(rows, operand(keys), repeated, window, float(scale))


def visible(positions: Tensor, window: int | None, keys: int) -> Tensor:
    """bool [query, key]: which keys each query sees."""
    distance = positions[:, None] - torch.arange(keys, device=positions.device)
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def reference_logits(
    queries: Tensor, keys: Tensor, scale: float, positions: Tensor | None, window: int | None
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of query rows with their float32 [head, row, key] logits, -inf where hidden."""
    head, query, dim = queries.shape
    kv_head, key, _ = keys.shape
    step = max(1, REFERENCE_BYTES // (4 * head * key))
    wide = keys.float().mT
    for start in range(0, query, step):
        rows = slice(start, min(start + step, query))
        grouped = queries[:, rows].float().reshape(kv_head, -1, dim)
        logits = (grouped @ wide).view(head, -1, key).mul_(scale)
        if positions is not None:
            logits.masked_fill_(~visible(positions[rows], window, key), HIDDEN)
        yield rows, logits
