"""The probability that lies on a given support, and what a support must look like."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows
from indexer_kernels.topk import KernelError


@jit
def support_mass_kernel(
    queries, keys, support, positions, lse, mass,
    rows, query_count, count, batch_stride, key_stride, places, scale,
    group, sets, dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Sum of exp(logit - lse) over a row's support, hidden places left out; grid (rows, batch)."""
    row = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    head = batch * group + row // query_count
    line = row % query_count
    feature = tl.arange(0, padded)
    query = tl.load(
        queries + (batch * rows + row) * dim + feature, mask=feature < dim, other=0.0
    ).to(tl.float32)
    heads = tl.num_programs(1) * group
    chosen = support + ((head * sets // heads) * query_count + line) * places
    norm = tl.load(lse + batch * rows + row)
    pos = line
    if causal:
        pos = tl.load(positions + row)
    total = tl.full([block], 0.0, tl.float32)
    for begin in range(0, places, block):
        place = begin + tl.arange(0, block)
        at = tl.load(chosen + place, mask=place < places, other=-1)
        seen = (at >= 0) & (at < count)
        if causal:
            seen = seen & (at <= pos)
            if window > 0:
                seen = seen & (pos - at < window)
        key = tl.load(
            keys + batch * batch_stride + at[:, None] * key_stride + feature[None, :],
            mask=seen[:, None] & (feature < dim)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        logit = tl.sum(key * query[None, :], 1) * scale
        weight = tl.exp2((logit - norm) * 1.4426950408889634)
        total += tl.where(seen, weight, 0.0)
    tl.store(mass + batch * rows + row, tl.sum(total, 0))


def support_mass(rows: Rows, support: Tensor, lse: Tensor, queries: int) -> Tensor:
    """float32 [batch, row]: probability on the support."""
    batch, count, keys, dim = rows.shape
    mass = torch.empty(batch, count, dtype=torch.float32, device=support.device)
    support = support.contiguous()
    padded = power_of_two(dim, 16)
    support_mass_kernel[(count, batch)](
        rows.queries, rows.keys, support, rows.positions, lse, mass,
        count, queries, keys, rows.keys.stride(0), rows.keys.stride(1), support.shape[2],
        rows.scale, count // queries, support.shape[0], dim=dim, padded=padded,
        block=max(16, 8192 // padded), window=rows.window or 0,
        causal=rows.positions is not None, num_warps=4,
    )  # fmt: skip
    return mass


def check_support(support: Tensor | None, queries: Tensor, keys: Tensor) -> None:
    """Raises KernelError unless support is None or int64 [set, query, place], set 1, kv_head or
    head."""
    if support is None:
        return
    sets = (1, keys.shape[0], queries.shape[0])
    if support.dtype != torch.int64 or support.ndim != 3 or support.shape[0] not in sets:
        raise KernelError(
            f"support is {support.dtype} {tuple(support.shape)}: expected int64 "
            f"[set, query, place] with {sorted(set(sets))} sets"
        )
    if support.shape[1] != queries.shape[1] or support.shape[2] == 0:
        raise KernelError(
            f"support {tuple(support.shape)} does not match queries {tuple(queries.shape)}"
        )
