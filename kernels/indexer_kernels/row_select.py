"""The top-k of stored scores in one launch: bound, candidates, cut.

The scores' group maxima are there already, from the kernel that made the scores. Their k-th largest
is a proven lower bound, only groups that reach it are read, and what passes is settled.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.bits import record, unordered
from indexer_kernels.bound import RESIDENT, REST, few, resident
from indexer_kernels.margin import doubled_error, error_terms
from indexer_kernels.operands import Rows
from indexer_kernels.search import kth_bracket
from indexer_kernels.settling import BAND, settle
from indexer_kernels.written import gather_shape, load_query

GATHERED = 8192  # scores that a program looks at at once
GROUPS = (16, 32, 64, 128)  # scores a group
ANSWERED, OVERFLOWED, NOT_A_NUMBER, UNSAFE = range(4)  # what `state` holds


@jit
def select_kernel(
    scores, maxima, hits, records, words, halves, chosen, values, state, queries, keys, squares,
    rows, batch_stride, key_stride, stride, count, groups, room, k, scale,
    shares, relative, absolute, tiny, largest,
    group: tl.constexpr, block: tl.constexpr, step: tl.constexpr, width: tl.constexpr,
    rest: tl.constexpr, many: tl.constexpr, exact: tl.constexpr, kth_only: tl.constexpr,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, gathered: tl.constexpr,
    band_block: tl.constexpr, norms: tl.constexpr,
):  # fmt: skip
    """The top-k of scores [line, key] with their neighbours' maxima [line, group]; grid (lines).

    exact: scores are final; else they are matrix-unit logits of `queries` and `keys`.
    hits, records: scratch [line, groups] and [line, room], words and halves the latter as
    int32 and as float32.
    state [line]: ANSWERED; OVERFLOWED: more than `room` scores passed; NOT_A_NUMBER: a group's
    maximum is NaN; UNSAFE: no error can be stated. Whatever is not answered is not written whole.
    """
    line = tl.program_id(0).to(tl.int64)
    scores += line * stride
    maxima += line * groups
    hits += line * groups
    records += line * room
    words += line * room * 2
    halves += line * room * 2
    doubled = tl.full([], 0.0, tl.float32)
    query = doubled
    if not exact:
        query = load_query(queries, line, dim, padded)
        doubled = doubled_error(
            query, squares + line // rows * shares, shares, relative, absolute, tiny, largest,
            norms,
        )  # fmt: skip
        keys += line // rows * batch_stride
    low, _, total = kth_bracket(
        maxima, None, groups, groups, k, float("-inf"), 0.0, "values", 1, block, rest, many, False
    )  # fmt: skip
    gate = unordered(low) - doubled
    gate = tl.where(total < k, float("-inf"), gate)
    # a gate of NaN lets nothing through
    gate = tl.where(doubled == doubled, gate, doubled)
    hit_count = tl.full([], 0, tl.int32)
    nan = tl.full([], 0, tl.int32)
    for begin in range(0, groups, block):
        slot = begin + tl.arange(0, block)
        best = tl.load(maxima + slot, mask=slot < groups, other=float("-inf"))
        nan = tl.maximum(nan, tl.max((best != best).to(tl.int32), 0))
        hit = ((best >= gate) & (best > float("-inf"))).to(tl.int32)
        to = hit_count + tl.cumsum(hit, 0) - hit
        tl.store(hits + to, slot, mask=hit != 0)
        hit_count += tl.sum(hit, 0)
    tl.debug_barrier()
    found = tl.full([], 0, tl.int32)
    for begin in range(0, hit_count * group, step):
        slot = begin + tl.arange(0, step)
        of_group = tl.load(hits + slot // group, mask=slot < hit_count * group, other=groups)
        col = of_group * group + slot % group
        value = tl.load(scores + col, mask=col < count, other=float("-inf"))
        passed = ((value >= gate) & (value > float("-inf"))).to(tl.int32)
        to = found + tl.cumsum(passed, 0) - passed
        tl.store(records + to, record(value, col), mask=(passed != 0) & (to < room))
        found += tl.sum(passed, 0)
    tl.debug_barrier()
    fits = tl.where((found <= room) & (nan == 0), found, 0)
    to = line if kth_only else line * k
    settle(
        words, halves, None, room, fits, k, float("-inf"), doubled, query, keys, key_stride, scale,
        records, room, chosen + to, values + to,
        "records", 1, width, rest, many, exact, kth_only, dim, padded, levels, gathered, band_block,
    )  # fmt: skip
    said = tl.where(found > room, 1, 0)
    said = tl.where(nan != 0, 2, said)
    said = tl.where(doubled == doubled, said, 3)
    tl.store(state + line, said.to(tl.int8))


def select_stored(
    scores: Tensor, maxima: Tensor, k: int, group: int, room: int,
    chosen: Tensor | None, values: Tensor | None, state: Tensor,
    rows: Rows | None = None, squares: Tensor | None = None,
) -> None:  # fmt: skip
    """Fills chosen int64 [line, k] and, for final scores, values float32 [line, k]; or, without
    chosen, values [line], the k-th largest alone. state: int8 [line]. Nothing is awaited.

    rows, squares: operands whose matrix-unit logits the scores are, and key_norms of them; without
    them the scores are final. Scratch: 8 * room and 4 bytes a group for each row.
    """
    lines, count = scores.shape
    groups = maxima.shape[1]
    device = scores.device
    hits = torch.empty(lines, groups, dtype=torch.int32, device=device)
    records = torch.empty(lines, room, dtype=torch.int64, device=device)
    exact = rows is None or squares is None
    shape = gather_shape(16 if rows is None else rows.shape[3])
    block = shape.pop("block")
    strides = (1, 0, 0) if rows is None else (rows.shape[1], *rows.keys.stride()[:2])
    terms = (0.0, 0.0, 0.0, 1.0) if rows is None else error_terms(rows.shape[3], rows.scale)
    shares = 1 if squares is None else squares.shape[1]
    select_kernel[(lines,)](
        scores, maxima, hits, records, records.view(torch.int32),
        records.view(torch.float32),
        values if chosen is None else chosen, chosen if values is None else values, state,
        None if rows is None else rows.queries, None if rows is None else rows.keys, squares,
        *strides, scores.stride(0), count, groups, room, k,
        1.0 if rows is None else rows.scale, shares, *terms,
        group=group, block=resident(groups), step=min(GATHERED, power_of_two(count, 16)),
        width=resident(min(2 * k, count)), rest=REST, many=few(lines), exact=exact,
        kth_only=chosen is None, **shape, gathered=block, band_block=BAND,
        norms=power_of_two(shares, 16), num_warps=warps_for(groups), enable_fp_fusion=False,
    )  # fmt: skip


def warps_for(groups: int) -> int:
    """Warps of a selecting program: some 16 values a thread to keep, or fewer."""
    return max(4, min(16, resident(groups) // 512))


def group_of(keys: int) -> int:
    """Scores a group: the smallest of GROUPS whose maxima a program keeps in registers."""
    return next((group for group in GROUPS if keys <= group * RESIDENT), GROUPS[-1])
