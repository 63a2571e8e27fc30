"""The least keys whose probability reaches a share of the mass, from stored logits."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.bits import ordered, unordered
from indexer_kernels.operands import Rows
from indexer_kernels.scoring import score


@jit
def needed_kernel(scores, lse, shares, needed, keys, count: tl.constexpr, block: tl.constexpr):
    """Least keys whose probability reaches a share; grid (rows, shares).

    Bisects on the logit: the largest one whose keys and all above hold the share. Among equals at
    that logit, as many as the share still lacks.
    """
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    norm = tl.load(lse + row)
    share = tl.load(shares + which)
    low = tl.full([], -2139095041, tl.int64)  # ordered(-inf): every key
    high = tl.full([], 2139095041, tl.int64)  # above +inf: none
    above = tl.full([], 0.0, tl.float32)
    more = tl.full([], 0, tl.int32)
    while high - low > 1:
        middle = (low + high) >> 1
        mass = tl.full([block], 0.0, tl.float32)
        many = tl.full([block], 0, tl.int32)
        for begin in range(0, keys, block):
            col = begin + tl.arange(0, block)
            logit = tl.load(scores + row * keys + col, mask=col < keys, other=float("-inf"))
            taken = ordered(logit) >= middle
            mass += tl.where(taken, tl.exp2((logit - norm) * 1.4426950408889634), 0.0)
            many += taken.to(tl.int32)
        held = tl.sum(mass, 0)
        if held >= share:
            low = middle
        else:
            high = middle
            above = held
            more = tl.sum(many, 0)
    edge = unordered(low.to(tl.int32))
    each = tl.exp2((edge - norm) * 1.4426950408889634)
    lacking = tl.where(each > 0.0, tl.ceil((share - above) / each), 0.0)
    equal = tl.full([block], 0, tl.int32)
    for begin in range(0, keys, block):
        col = begin + tl.arange(0, block)
        logit = tl.load(scores + row * keys + col, mask=col < keys, other=float("-inf"))
        equal += ((ordered(logit) == low) & (logit > float("-inf"))).to(tl.int32)
    # rounding may leave the sum of all p just under the share: then all of them are needed
    extra = tl.minimum(tl.maximum(lacking, 0.0), tl.sum(equal, 0).to(tl.float32))
    tl.store(needed + row * count + which, more.to(tl.int64) + extra.to(tl.int64))


def keys_needed(rows: Rows, lse: Tensor, shares: Sequence[float], workspace: int) -> Tensor:
    """int64 [batch, row, share]"""
    batch, count, keys, _ = rows.shape
    device = rows.queries.device
    needed = torch.empty(batch, count, len(shares), dtype=torch.int64, device=device)
    wanted = torch.tensor(shares, dtype=torch.float32, device=device)
    step = max(16, workspace // (4 * keys))
    for one in range(batch):
        for start in range(0, count, step):
            lines = slice(start, min(start + step, count))
            part = rows.part(slice(one, one + 1), lines)
            logits = torch.empty(part.shape[1], keys, dtype=torch.float32, device=device)
            score(part, "all", scores=logits)
            needed_kernel[(len(logits), len(shares))](
                logits, lse[one, lines], wanted, needed[one, lines], keys,
                count=len(shares), block=min(power_of_two(keys, 16), 2048), num_warps=8,
            )  # fmt: skip
    return needed
